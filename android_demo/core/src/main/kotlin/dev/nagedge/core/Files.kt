package dev.nagedge.core

import java.io.BufferedOutputStream
import java.io.File
import java.io.FileOutputStream
import java.io.InputStream
import java.io.OutputStream
import java.security.MessageDigest

/** The hexadecimal SHA-256 of a file, read in pieces. */
fun sha256Of(file: File): String = file.inputStream().use { sha256Of(it) }

/** The same of a stream, which is read to its end. */
fun sha256Of(stream: InputStream): String {
    val digest = MessageDigest.getInstance("SHA-256")
    val chunk = ByteArray(1 shl 16)
    while (true) {
        val count = stream.read(chunk)
        if (count < 0) return hex(digest.digest())
        digest.update(chunk, 0, count)
    }
}

/** The same of a text's UTF-8 bytes. */
fun sha256Of(text: String): String = hex(MessageDigest.getInstance("SHA-256").digest(text.toByteArray()))

private fun hex(bytes: ByteArray): String = bytes.joinToString("") { (it.toInt() and 255).toString(16).padStart(2, '0') }

/**
 * Write a file in full or not at all: a temporary sibling, flushed to the disk, renamed over the old one.
 *
 * A process that is killed at any time leaves the old file or the new one. What such a process left behind under the
 * temporary name is overwritten by the next call and never read. One writer at a time is the caller's to see to.
 */
fun writeAtomically(file: File, write: (OutputStream) -> Unit) {
    file.absoluteFile.parentFile?.mkdirs()
    val part = File(file.path + ".part")
    try {
        FileOutputStream(part).use { stream ->
            val buffered = BufferedOutputStream(stream, 1 shl 16)
            write(buffered)
            buffered.flush()
            stream.fd.sync()
        }
        if (!part.renameTo(file)) throw NagEdgeException("${file.name} cannot be replaced; it is as it was. Free some space.")
    } catch (error: Throwable) {
        part.delete()
        throw error
    }
}
