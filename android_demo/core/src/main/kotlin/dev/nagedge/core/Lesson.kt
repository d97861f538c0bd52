package dev.nagedge.core

/**
 * How a lesson goes.
 *
 * @property steps to make. @property batch examples a step. @property seed of the order of the examples.
 * @property saveEvery steps between two saves; the last step is always saved.
 */
data class LessonPlan(
    val steps: Int,
    val batch: Int,
    val settings: Settings,
    val seed: Long = 0,
    val saveEvery: Int = 25,
) {
    init {
        require(steps >= 1) { "steps is $steps, expected 1 or more" }
        require(batch >= 1) { "batch is $batch, expected 1 or more" }
        require(saveEvery >= 1) { "saveEvery is $saveEvery, expected 1 or more" }
    }
}

/** One step: which one since the export, its losses (before the step) by name, and how long it took. */
class StepReport(val step: Long, val losses: Map<String, Float>, val durationNs: Long) {
    val loss: Float get() = losses.getValue("loss")
}

/** What became of a lesson: whether it made all its steps, and those it made. */
class LessonResult(val finished: Boolean, val steps: List<StepReport>)

/**
 * Which examples a step learns from.
 *
 * It depends on the seed, the number of the step since the export and the examples, and on nothing else: whoever goes on
 * from a saved state after step k sees the same batches as somebody who was never interrupted.
 */
class Schedule(private val count: Int, private val batch: Int, private val seed: Long) {
    init {
        require(count >= 1) { "no example to learn from" }
    }

    private val perEpoch = (count + batch - 1) / batch

    /** Indices of the examples of a step: every epoch has all of them in an order of its own. */
    fun indices(step: Long): List<Int> {
        val order = order(step / perEpoch)
        val start = (step % perEpoch).toInt() * batch
        return order.subList(start, minOf(start + batch, count))
    }

    /** Fisher and Yates' shuffle, drawn from SplitMix64 (Steele, Lea and Flood 2014), the same on every runtime. */
    private fun order(epoch: Long): List<Int> {
        val order = IntArray(count) { it }
        var state = mixed(seed) + epoch * GOLDEN
        for (last in count - 1 downTo 1) {
            state += GOLDEN
            val other = ((mixed(state) ushr 1) % (last + 1)).toInt()
            order[last] = order[other].also { order[other] = order[last] }
        }
        return order.asList()
    }

    private fun mixed(value: Long): Long {
        var z = value
        z = (z xor (z ushr 30)) * -0x40a7b892e31b1a47L
        z = (z xor (z ushr 27)) * -0x6b2fb644ecceee15L
        return z xor (z ushr 31)
    }

    private companion object {
        const val GOLDEN = -0x61c8864680b583ebL
    }
}

/**
 * Learn from the examples.
 *
 * @param from steps that led to the trainer's state.
 * @param save called with the state now and then, and after the last step.
 * @param goOn told of every step; false ends the lesson after it. Its state is saved, and a later lesson goes on from there.
 * @throws DivergedException a loss or a weight is not finite; the trainer has the state before the lesson, and so has
 *   [save] if it was called. Whatever else is thrown, by [save] or [goOn] too, leaves the trainer at what was saved last.
 */
fun learn(
    trainer: Trainer,
    batcher: Batcher,
    examples: List<Example>,
    plan: LessonPlan,
    from: Long,
    save: (PersonalWeights) -> Unit,
    goOn: (StepReport) -> Boolean,
): LessonResult {
    val before = PersonalWeights(trainer.state(), from)
    var saved = before
    val schedule = Schedule(examples.size, plan.batch, plan.seed)
    val reports = ArrayList<StepReport>()
    try {
        for (step in from until from + plan.steps) {
            val batch = batcher.batch(schedule.indices(step).map { examples[it] })
            val started = System.nanoTime()
            val losses = trainer.step(batch, plan.settings)
            val report = StepReport(step, losses, System.nanoTime() - started)
            reports.add(report)
            val ended = !goOn(report) || reports.size == plan.steps
            if (ended || reports.size % plan.saveEvery == 0) {
                val now = PersonalWeights(trainer.state(), step + 1)
                if (!now.state.isFinite()) throw DivergedException("a weight is not finite: take a smaller step size")
                save(now)
                saved = now
            }
            if (ended) break
        }
    } catch (error: DivergedException) {
        trainer.restore(before.state)
        if (saved !== before) save(before)
        throw error
    } catch (error: Throwable) {
        trainer.restore(saved.state)
        throw error
    }
    return LessonResult(reports.size == plan.steps, reports)
}
