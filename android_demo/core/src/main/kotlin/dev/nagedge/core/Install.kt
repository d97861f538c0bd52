package dev.nagedge.core

import java.io.File
import java.io.InputStream

/**
 * Bring a bundle from where it can only be streamed, such as an app's assets, to a folder of files.
 *
 * Every file is checked against the manifest's size and SHA-256 on its way. A bundle that is there already is checked and
 * used; the folder has the bundle's hash in its name, so that another export gets another folder.
 *
 * @param open a file of the bundle by its path. @param into a folder for bundles; older ones in it are removed.
 */
fun installBundle(open: (String) -> InputStream, into: File): Bundle {
    val text = open(Bundle.MANIFEST).use { it.readBytes() }
    val manifest = Manifest.parse(String(text, Charsets.UTF_8))
    val folder = File(into, manifest.hash.take(16))
    try {
        return Bundle.open(folder).takeIf { it.hash == manifest.hash } ?: throw BundleException("another bundle")
    } catch (error: BundleException) {
        folder.deleteRecursively() // not there, or damaged
    }
    val part = File(into, "${folder.name}.part")
    part.deleteRecursively()
    val target = manifest.targets.values.firstOrNull { Bundle.fits(it) }
        ?: throw BundleException("the bundle in this app has no training step for ONNX Runtime. Export it again.")
    for (name in Bundle.needed(manifest, target)) {
        Bundle.checkName(name)
        open(name).use { stream -> writeAtomically(File(part, name)) { stream.copyTo(it) } }
    }
    writeAtomically(File(part, Bundle.MANIFEST)) { it.write(text) }
    Bundle.open(part) // sizes and hashes
    into.listFiles()?.filter { it != part }?.forEach { it.deleteRecursively() }
    if (!part.renameTo(folder)) throw NagEdgeException("the bundle cannot be put into ${into.path}. Free some space.")
    return Bundle.open(folder)
}
