package dev.nagedge.core

/** What a training step reads and writes, by name; nobody changes the tensors in it. */
class TrainingState(
    val params: Map<String, Tensor>,
    val momentum: Map<String, Tensor>,
    val buffers: Map<String, Tensor>,
) {
    /** By the names that the graph's inputs have: `params.x`, `momentum.x`, `buffers.x`. */
    fun named(): Map<String, Tensor> =
        params.mapKeys { "$PARAMS${it.key}" } + momentum.mapKeys { "$MOMENTUM${it.key}" } +
            buffers.mapKeys { "$BUFFERS${it.key}" }

    /** By the names that inference has for what was learnt: parameters and buffers. */
    fun learnt(): Map<String, Tensor> = params + buffers

    fun isFinite(): Boolean = named().values.all { it.isFinite() }

    /** Whether every bit is equal. */
    fun sameAs(other: TrainingState): Boolean {
        val (mine, theirs) = named() to other.named()
        return mine.keys == theirs.keys && mine.all { (name, tensor) -> tensor.sameAs(theirs.getValue(name)) }
    }

    companion object {
        const val PARAMS = "params."
        const val MOMENTUM = "momentum."
        const val BUFFERS = "buffers."

        /** The inverse of [named]; other names are left out. */
        fun ofNamed(tensors: Map<String, Tensor>): TrainingState {
            fun role(prefix: String) =
                tensors.filterKeys { it.startsWith(prefix) }.mapKeys { it.key.removePrefix(prefix) }
            return TrainingState(role(PARAMS), role(MOMENTUM), role(BUFFERS))
        }
    }
}
