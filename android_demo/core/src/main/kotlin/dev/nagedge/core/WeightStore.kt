package dev.nagedge.core

import java.io.ByteArrayOutputStream
import java.io.File
import java.io.InputStream
import java.io.OutputStream
import java.nio.ByteBuffer
import java.security.MessageDigest

/** What a device has learnt: the whole state of training, and how many steps led to it. */
class PersonalWeights(val state: TrainingState, val steps: Long)

/**
 * Personal weights in one safetensors file: parameters, momentum, buffers, the count of steps and the hash of the bundle
 * that they belong to. Written in full or not at all; [writeAtomically] says what that means.
 */
class WeightStore(val file: File, private val bundle: Bundle) {
    /**
     * @return null where nothing was saved yet.
     * @throws WeightsException the file is damaged, or belongs to another export.
     */
    fun load(): PersonalWeights? = if (file.exists()) read(file.readBytes()) else null

    fun save(weights: PersonalWeights) = writeAtomically(file) { write(weights, it) }

    fun delete() {
        if (file.exists() && !file.delete()) throw NagEdgeException("${file.name} cannot be removed")
    }

    /** The same bytes as [save] writes. */
    fun write(weights: PersonalWeights, out: OutputStream) {
        val tensors = weights.state.named()
        val metadata = mapOf(
            "format" to FORMAT,
            "bundle" to bundle.hash,
            "model" to bundle.manifest.model,
            "steps" to "${weights.steps}",
            "sha256" to digestOf(tensors),
        )
        Safetensors.write(Tensors(tensors, metadata), out)
    }

    /** Take weights from elsewhere, such as a file that a person chose; nothing is saved by it. */
    fun read(stream: InputStream): PersonalWeights {
        val bytes = ByteArrayOutputStream()
        stream.copyTo(bytes)
        return read(bytes.toByteArray())
    }

    private fun read(bytes: ByteArray): PersonalWeights {
        val found = try {
            Safetensors.parse(ByteBuffer.wrap(bytes), "the file of personal weights")
        } catch (error: NagEdgeException) {
            throw WeightsException("${error.message}. It was not loaded.", error)
        }
        val metadata = found.metadata
        if (metadata["format"] != FORMAT) throw WeightsException("this file holds no personal weights of NagEdge")
        if (metadata["bundle"] != bundle.hash) {
            throw WeightsException(
                "these weights belong to another export of ${metadata["model"] ?: "a model"}: its hash begins with " +
                    "${metadata["bundle"].orEmpty().take(16)}, this one's with ${bundle.hash.take(16)}",
            )
        }
        val initial = bundle.initialState().named()
        if (found.byName.keys != initial.keys) {
            throw WeightsException("the weights have other tensors than the model: ${(initial.keys - found.byName.keys).take(3)}")
        }
        for ((name, expected) in initial) {
            val tensor = found.byName.getValue(name)
            if (tensor.dtype != expected.dtype || !tensor.shape.contentEquals(expected.shape)) {
                throw WeightsException(
                    "$name is ${tensor.dtype.numpy} ${tensor.shape.contentToString()}, " +
                        "expected ${expected.dtype.numpy} ${expected.shape.contentToString()}",
                )
            }
        }
        val ordered = initial.keys.associateWith { found.byName.getValue(it) }
        if (metadata["sha256"] != digestOf(ordered)) throw WeightsException("the personal weights are damaged: wrong SHA-256")
        val state = TrainingState.ofNamed(ordered)
        if (!state.isFinite()) throw WeightsException("the personal weights hold numbers that are not finite")
        val steps = metadata["steps"]?.toLongOrNull()?.takeIf { it >= 0 }
            ?: throw WeightsException("the personal weights do not say how many steps led to them")
        return PersonalWeights(state, steps)
    }

    private fun digestOf(tensors: Map<String, Tensor>): String {
        val digest = MessageDigest.getInstance("SHA-256")
        for ((name, tensor) in tensors) {
            digest.update(name.toByteArray())
            digest.update(tensor.view())
        }
        return digest.digest().joinToString("") { (it.toInt() and 255).toString(16).padStart(2, '0') }
    }

    private companion object {
        const val FORMAT = "nagedge-personal-weights"
    }
}
