package dev.nagedge.core

import kotlin.math.abs
import kotlin.math.exp

/**
 * What a model says of one example and one task, for people.
 *
 * @property shown probabilities, or values in the task's unit.
 */
class Answer(val task: TaskEntry, val shown: FloatArray) {
    /** A label, 0 or 1 for every label, or values: a target in the task's unit. */
    val decision: FloatArray = when (task.kind) {
        TaskKind.CLASSIFICATION -> floatArrayOf(shown.indices.maxByOrNull { shown[it] }!!.toFloat())
        TaskKind.REGRESSION -> shown
        else -> FloatArray(shown.size) { if (shown[it] > 0.5f) 1f else 0f }
    }

    companion object {
        /** @param output raw, one entry an output. */
        fun of(manifest: Manifest, task: TaskEntry, output: FloatArray): Answer = Answer(
            task,
            when (task.kind) {
                TaskKind.CLASSIFICATION -> softmax(output)
                TaskKind.REGRESSION -> manifest.preprocessing.unstandardise(task.name, output)
                else -> FloatArray(output.size) { (1 / (1 + exp(-output[it].toDouble()))).toFloat() }
            },
        )

        fun softmax(logits: FloatArray): FloatArray {
            val highest = logits.max()
            val powers = DoubleArray(logits.size) { exp((logits[it] - highest).toDouble()) }
            val sum = powers.sum()
            return FloatArray(logits.size) { (powers[it] / sum).toFloat() }
        }
    }
}

/**
 * How good decisions are on some examples.
 *
 * @property right labels that are right, of [of]; null for regression.
 * @property off mean absolute error in the task's unit; null for labels.
 */
class Score(val task: TaskEntry, val right: Int?, val of: Int, val off: Double?) {
    /** Share of right labels; null for regression or without examples. */
    val accuracy: Double? get() = if (right == null || of == 0) null else right.toDouble() / of

    companion object {
        /** @param pairs decision and target of every example. */
        fun of(task: TaskEntry, pairs: List<Pair<FloatArray, FloatArray>>): Score {
            val values = pairs.flatMap { (said, right) -> said.indices.map { said[it] to right[it] } }
            if (task.kind != TaskKind.REGRESSION) return Score(task, values.count { it.first == it.second }, values.size, null)
            val off = if (values.isEmpty()) null else values.map { abs((it.first - it.second).toDouble()) }.average()
            return Score(task, null, values.size, off)
        }
    }
}
