package dev.nagedge.core

import kotlin.math.pow
import kotlin.math.sqrt

/** Latencies of one kind of call: the first call, the warm-up and the steady state apart. */
class Latency(val samplesMs: DoubleArray) {
    init {
        require(samplesMs.size >= 2) { "${samplesMs.size} samples, expected at least two" }
    }

    val firstMs: Double = samplesMs[0]
    val warmUp: Statistics.WarmUp = Statistics.detectWarmUp(samplesMs.copyOfRange(1, samplesMs.size))
    val steadyMs: DoubleArray = samplesMs.copyOfRange(1 + warmUp.length, samplesMs.size)

    /** The quantile of the steady state. */
    fun quantileMs(probability: Double): Double = Statistics.quantile(steadyMs.sortedArray(), probability)

    /** As `nagedge profile` writes a distribution. */
    fun json(stoppedBy: String, budgetS: Double): Json {
        val mean = steadyMs.average()
        val squares = steadyMs.sumOf { (it - mean).pow(2) }
        val outliers = Statistics.findOutliers(steadyMs)
        val drift = Statistics.detectDrift(steadyMs)
        val modes = Statistics.detectModes(steadyMs)
        return Json.of(
            linkedMapOf(
                "evidence" to EVIDENCE,
                "samples_ms" to samplesMs,
                "first_ms" to firstMs,
                "warm_up_calls" to warmUp.length,
                "warm_up_total_ms" to samplesMs.copyOfRange(1, 1 + warmUp.length).sum(),
                "warm_up_method" to Statistics.WARM_UP_METHOD,
                "steady_reached" to warmUp.reached,
                "steady_calls" to steadyMs.size,
                "mean_ms" to mean,
                "standard_deviation_ms" to if (steadyMs.size > 1) sqrt(squares / (steadyMs.size - 1)) else 0.0,
                "min_ms" to steadyMs.min(),
                "max_ms" to steadyMs.max(),
                "quantiles" to Statistics.quantiles(steadyMs).map {
                    linkedMapOf(
                        "probability" to it.probability, "value" to it.value, "low" to it.low, "high" to it.high,
                        "samples" to it.samples, "samples_needed" to it.samplesNeeded,
                    )
                },
                "interval_method" to "95 % percentile interval of a circular block bootstrap",
                "outliers" to mapOf("count" to outliers.count, "fence" to outliers.fence, "largest" to outliers.largest),
                "drift" to mapOf(
                    "detected" to drift.detected, "z" to drift.z, "relative_change" to drift.relativeChange,
                ),
                "modes" to mapOf(
                    "bimodal" to modes.bimodal, "low" to modes.low, "high" to modes.high,
                    "share_high" to modes.shareHigh, "separation" to modes.separation,
                ),
                "stopped_by" to stoppedBy,
                "budget_s" to budgetS,
                "involuntary_switches" to null,
            ),
        )
    }

    companion object {
        /** The class of evidence: timed on the device that it is about. */
        const val EVIDENCE = "measured-device"
    }
}

/** The last durations of a kind of call, for a person to see while using the app. */
class RecentLatency(private val most: Int = 500) {
    private val durationsMs = ArrayDeque<Double>()
    private var calls = 0

    /** Note a duration; the first [WARM_UP] are those of a cold start and are not counted. */
    fun add(durationNs: Long) {
        if (calls++ < WARM_UP) return
        if (durationsMs.size == most) durationsMs.removeFirst()
        durationsMs.addLast(durationNs / 1e6)
    }

    val count: Int get() = durationsMs.size

    /** Null without samples. */
    fun quantileMs(probability: Double): Double? =
        if (durationsMs.isEmpty()) null else Statistics.quantile(durationsMs.toDoubleArray().sortedArray(), probability)

    companion object {
        const val WARM_UP = 3
    }
}
