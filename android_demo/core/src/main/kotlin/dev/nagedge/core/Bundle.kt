package dev.nagedge.core

import java.io.File
import java.nio.ByteBuffer

/**
 * An exported bundle on disk, of which one target's inference and training step are used.
 *
 * Size and SHA-256 of every file are checked before anything in it is parsed, and again whenever it is read. Files that
 * the manifest lists and this target does not need may be absent: an app carries only what it runs.
 */
class Bundle private constructor(val folder: File, val manifest: Manifest, val target: TargetEntry) {
    /** Identifies the export; see [Manifest.hash]. */
    val hash: String get() = manifest.hash

    val training: TrainingEntry = manifest.training ?: throw BundleException("${folder.name} has no training step")

    /** The only batch size there is, or null. */
    val batch: Int? = manifest.batchOf(target)

    val inferFile: String = target.artifacts.getValue(INFER)
    val trainStepFile: String = target.artifacts.getValue(TRAIN_STEP)

    fun inferModel(): ByteArray = read(inferFile)

    fun trainStepModel(): ByteArray = read(trainStepFile)

    /** The state that training starts from: as exported. */
    fun initialState(): TrainingState {
        val params = tensors(PARAMS)
        val momentum = if (MOMENTUM in manifest.files) tensors(MOMENTUM) else emptyMap()
        fun required(name: String) = params[name]
            ?: throw BundleException("$name is trained, says the manifest, but $PARAMS does not hold it. Export again.")
        return TrainingState(
            params = training.parameters.associateWith { required(it) },
            momentum = training.parameters.associateWith {
                momentum[it] ?: Tensor.zeros(required(it).dtype, required(it).shape)
            },
            buffers = training.buffers.associateWith { required(it) },
        )
    }

    private fun tensors(name: String): Map<String, Tensor> = try {
        Safetensors.parse(ByteBuffer.wrap(read(name)), name).byName
    } catch (error: BundleException) {
        throw error
    } catch (error: NagEdgeException) {
        throw BundleException("${error.message}. Export again.", error)
    }

    /** The checked content of one of the files that the manifest lists. */
    fun read(name: String): ByteArray {
        val entry = manifest.files[name] ?: throw BundleException("the manifest lists no file $name")
        val file = within(folder, name)
        if (!file.isFile) throw BundleException("$name is missing from the bundle. Export again.")
        if (file.length() != entry.sizeBytes) {
            throw BundleException(
                "$name has ${file.length()} bytes, the manifest says ${entry.sizeBytes}: it is truncated or was changed. " +
                    "Export again.",
            )
        }
        val content = file.readBytes()
        val digest = sha256Of(content.inputStream())
        if (digest != entry.sha256) {
            throw BundleException(
                "$name has sha256 ${digest.take(16)}…, the manifest says ${entry.sha256.take(16)}…: it was changed. Export again.",
            )
        }
        return content
    }

    companion object {
        const val MANIFEST = "manifest.json"
        const val PARAMS = "params.safetensors"
        const val MOMENTUM = "momentum.safetensors"
        const val INFER = "infer"
        const val TRAIN_STEP = "train_step"
        private const val LARGEST_MANIFEST = 64L shl 20

        /**
         * @param target its name; null takes the first in float32 that trains on the stock ONNX Runtime.
         * @throws BundleException the bundle is missing, damaged or foreign, or has no such target.
         */
        fun open(folder: File, target: String? = null): Bundle {
            val manifest = manifestOf(folder)
            for (name in manifest.files.keys) checkName(name)
            val chosen = if (target == null) manifest.targets.values.firstOrNull { fits(it) } else manifest.targets[target]
            if (chosen == null || !fits(chosen)) {
                throw BundleException(
                    "${folder.name} has no training step for ONNX Runtime in float32 " +
                        (if (target == null) "in any target" else "under the target $target") +
                        " (it has ${manifest.targets.keys.joinToString()}). Export it with --target any-any-onnxruntime-fp32-train.",
                )
            }
            val bundle = Bundle(folder, manifest, chosen)
            for (name in needed(manifest, chosen)) bundle.read(name)
            return bundle
        }

        /** The manifest alone; no other file is looked at. */
        fun manifestOf(folder: File): Manifest {
            val file = within(folder, MANIFEST)
            if (!file.isFile) throw BundleException("${folder.name} holds no bundle: it has no $MANIFEST")
            if (file.length() > LARGEST_MANIFEST) throw BundleException("$MANIFEST has ${file.length()} bytes, too many")
            return Manifest.parse(file.readText())
        }

        /** The files that a client of this target reads. */
        fun needed(manifest: Manifest, target: TargetEntry): List<String> =
            listOf(PARAMS) + listOf(MOMENTUM).filter { it in manifest.files } +
                listOf(target.artifacts.getValue(INFER), target.artifacts.getValue(TRAIN_STEP))

        /** Whether a target's learnt weights can be written into its inference: float32 on ONNX Runtime. */
        fun fits(target: TargetEntry): Boolean =
            target.backend == "onnxruntime" && target.precision == "fp32" &&
                INFER in target.artifacts && TRAIN_STEP in target.artifacts

        /** Refuse a path that could lead out of the bundle. */
        fun checkName(name: String) {
            val parts = name.split('/')
            if (parts.any { it.isEmpty() || it == "." || it == ".." } || name.any { it == '\\' || it == ':' || it == '\u0000' }) {
                throw BundleException("the manifest names the file \"$name\", which may lead out of the bundle. Do not use it.")
            }
        }

        /** A file of the bundle; what is a link, or lies behind one, is refused. */
        private fun within(folder: File, name: String): File {
            checkName(name)
            val file = File(folder, name)
            if (file.exists() && file.canonicalFile != File(folder.canonicalFile, name)) {
                throw BundleException("$name is a link. Copy the real file there.")
            }
            return file
        }
    }
}
