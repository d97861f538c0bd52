package dev.nagedge.core

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtSession

/**
 * Inference with the exported parameters, or with learnt ones.
 *
 * Parameters are constants of the session, because ONNX Runtime packs them for its kernels; other ones need another
 * session. Not for two threads at once.
 */
class Predictor private constructor(private val manifest: Manifest, private val session: OrtSession) : AutoCloseable {
    /**
     * @param inputs by name, `[n, ...]`, prepared.
     * @return raw outputs by task, `[n, size]` or `[n]`.
     */
    fun predict(inputs: Map<String, Tensor>): Map<String, Tensor> = try {
        Views(inputs.filterKeys { it in session.inputNames }).use { views ->
            session.run(views.byName).use { result ->
                manifest.tasks.associate { it.name to Runtime.copy(result.get(it.name).get() as OnnxTensor) }
            }
        }
    } catch (error: OrtException) {
        throw NagEdgeException("the prediction failed: ${error.message}", error)
    }

    /** What the model says of every example, by task. */
    fun answers(inputs: Map<String, Tensor>): List<Map<String, Answer>> {
        val rows = inputs.values.first().shape[0].toInt()
        val outputs = predict(inputs).mapValues { (_, output) -> output.floats() }
        return List(rows) { row ->
            manifest.tasks.associate { task ->
                val values = outputs.getValue(task.name)
                val size = values.size / rows
                task.name to Answer.of(manifest, task, values.copyOfRange(row * size, (row + 1) * size))
            }
        }
    }

    override fun close() = session.close()

    companion object {
        /** @param learnt new values by name, of [TrainingState.learnt]; null for the exported ones. */
        fun open(bundle: Bundle, learnt: Map<String, Tensor>? = null, threads: Int = 1): Predictor {
            val exported = bundle.inferModel()
            val model = if (learnt == null) exported else OnnxParameters.replaced(exported, learnt)
            return Predictor(bundle.manifest, Runtime.session(model, threads, bundle.inferFile))
        }
    }
}
