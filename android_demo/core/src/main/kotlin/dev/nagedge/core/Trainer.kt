package dev.nagedge.core

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtSession

/**
 * A batch as the training step takes it.
 *
 * @property inputs by name, `[n, ...]`, prepared. @property targets by task, as the model learns them.
 * @property sampleWeight float32 `[n]`; an example of weight 0 does not count.
 */
class Batch(val inputs: Map<String, Tensor>, val targets: Map<String, Tensor>, val sampleWeight: Tensor)

/**
 * Training steps on `train_step.onnx` with the stock ONNX Runtime.
 *
 * There are two sets of state tensors. A step reads the one and writes into the other, which the runtime was told to take
 * for its outputs; then they change places. So no step allocates or copies state, nothing is left to be freed, and a step
 * that fails leaves the old state whole. Not for two threads at once.
 */
class Trainer private constructor(private val session: OrtSession, state: TrainingState) : AutoCloseable {
    private class Side(val tensors: Map<String, Tensor>) : AutoCloseable {
        private val views = Views(tensors)
        val inputs: Map<String, OnnxTensor> get() = views.byName
        val outputs: Map<String, OnnxTensor> = views.byName.mapKeys { "$NEXT${it.key}" }

        override fun close() = views.close()
    }

    private var current = Side(state.named().mapValues { (_, tensor) -> tensor.copy() })
    private var next = Side(current.tensors.mapValues { (_, tensor) -> Tensor.zeros(tensor.dtype, tensor.shape) })
    private val losses: Set<String> = session.outputNames.filterNotTo(LinkedHashSet()) { it.startsWith(NEXT) }

    /**
     * Run one step.
     *
     * @return `loss` and `loss.<task>`, of the state before the step.
     * @throws DivergedException a loss is not finite; the state is the one before the step.
     */
    fun step(batch: Batch, settings: Settings): Map<String, Float> {
        val fed = batch.inputs + batch.targets.mapKeys { "target.${it.key}" } + mapOf(
            "sample_weight" to batch.sampleWeight,
            "lr" to Tensor.of(floatArrayOf(settings.lr)),
            "momentum" to Tensor.of(floatArrayOf(settings.momentum)),
            "weight_decay" to Tensor.of(floatArrayOf(settings.weightDecay)),
        )
        val found = try {
            Views(fed.filterKeys { it in session.inputNames }).use { views ->
                val inputs = current.inputs.filterKeys { it in session.inputNames } + views.byName
                session.run(inputs, losses, next.outputs).use { result ->
                    losses.associateWith { Runtime.copy(result.get(it).get() as OnnxTensor).floats().single() }
                }
            }
        } catch (error: OrtException) {
            throw NagEdgeException("the training step failed: ${error.message}", error)
        }
        for ((name, loss) in found) if (!loss.isFinite()) throw DivergedException("$name is $loss: take a smaller step size")
        current = next.also { next = current }
        return found
    }

    /** A copy of the state as it is now. */
    fun state(): TrainingState = TrainingState.ofNamed(current.tensors.mapValues { (_, tensor) -> tensor.copy() })

    /** Go on from another state, of the same names and shapes. */
    fun restore(state: TrainingState) {
        val given = state.named()
        require(given.keys == current.tensors.keys) { "the state has other tensors" }
        for ((name, tensor) in current.tensors) {
            require(tensor.shape.contentEquals(given.getValue(name).shape)) { "$name has another shape" }
        }
        for ((name, tensor) in current.tensors) tensor.view().put(given.getValue(name).view())
    }

    override fun close() {
        current.close()
        next.close()
        session.close()
    }

    companion object {
        private const val NEXT = "next."

        /** @param state to start from; null takes the exported one. */
        fun open(bundle: Bundle, state: TrainingState? = null, threads: Int = 1): Trainer {
            // A step's planned block would lie beside what its first run took, and double the memory of training.
            val session = Runtime.session(bundle.trainStepModel(), threads, bundle.trainStepFile, planned = false)
            return try {
                Trainer(session, state ?: bundle.initialState())
            } catch (error: Throwable) {
                session.close()
                throw error
            }
        }
    }
}
