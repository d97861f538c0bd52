package dev.nagedge.core

import kotlin.math.abs
import kotlin.math.ceil
import kotlin.math.ln
import kotlin.math.pow
import kotlin.math.sign
import kotlin.math.sqrt

/**
 * Statistics of latencies, the methods of nagedge/profiling/statistics.py, where each is explained with its source.
 * Durations are in order of time. Deterministic.
 */
object Statistics {
    const val WARM_UP_METHOD = "MSER-5 on medians of five (White 1997), confirmed by a Mann-Whitney test"
    private const val GROUP = 5
    private const val NEARLY_BEST = 1.1
    private const val CONFIRM_Z = 3.0
    private const val CONFIRM_RELATIVE = 0.02
    private const val SEPARATED = 0.85

    /** [length] samples come before the steady state; if it was not [reached], it is half of them. */
    data class WarmUp(val length: Int, val reached: Boolean)

    fun detectWarmUp(samples: DoubleArray): WarmUp {
        val groups = samples.size / GROUP
        if (groups < 4) return WarmUp(0, true)
        val offset = samples.size - groups * GROUP
        val medians = DoubleArray(groups) { median(samples.copyOfRange(offset + it * GROUP, offset + (it + 1) * GROUP)) }
        val centre = median(medians)
        val floor = (1e-6 * medians.sum() / groups).pow(2)
        val score = DoubleArray(groups)
        var (sum, squares) = 0.0 to 0.0
        for (first in groups - 1 downTo 0) {
            val left = (groups - first).toDouble()
            sum += medians[first] - centre
            squares += (medians[first] - centre).pow(2)
            score[first] = (maxOf(squares - sum.pow(2) / left, 0.0) + floor) / left.pow(2)
        }
        val useful = score.copyOf(groups - 3)
        val best = useful.indexOfFirst { it <= NEARLY_BEST * useful.min() }
        val start = if (best > 0) offset + best * GROUP else 0
        val steady = samples.copyOfRange(start, samples.size)
        if (best > groups / 2) {
            val unsettled = shifted(samples.copyOf(start), steady)
            return if (unsettled) WarmUp(samples.size / 2, false) else WarmUp(0, true)
        }
        for (length in start downTo 1 step GROUP) if (shifted(samples.copyOf(length), steady)) return WarmUp(length, true)
        return WarmUp(0, true)
    }

    /** Whether two populations differ by a Mann-Whitney test, and their medians by more than 2 %. */
    private fun shifted(before: DoubleArray, after: DoubleArray): Boolean {
        val middle = median(after)
        if (abs(median(before) - middle) <= CONFIRM_RELATIVE * middle) return false
        val all = (before + after).sortedArray()
        val rank = HashMap<Double, Double>()
        var ties = 0.0
        var at = 0
        while (at < all.size) {
            var end = at
            while (end < all.size && all[end] == all[at]) end++
            val count = (end - at).toDouble()
            rank[all[at]] = end - (count - 1) / 2 // mid-ranks, counted from one
            ties += count.pow(3) - count
            at = end
        }
        val (n, m) = before.size.toDouble() to after.size.toDouble()
        val total = n + m
        val statistic = before.sumOf { rank.getValue(it) } - n * (n + 1) / 2
        val variance = n * m / 12 * (total + 1 - ties / (total * (total - 1)))
        return variance > 0 && abs(statistic - n * m / 2) / sqrt(variance) > CONFIRM_Z
    }

    /** One quantile with the 95 % interval of a bootstrap; null where there are too few samples for one. */
    data class Quantile(
        val probability: Double,
        val value: Double?,
        val low: Double?,
        val high: Double?,
        val samples: Int,
        val samplesNeeded: Int,
    )

    /** The fewest samples for which a distribution-free interval of a quantile exists. */
    fun minimumSamples(probability: Double, confidence: Double = 0.95): Int =
        ceil(ln((1 - confidence) / 2) / ln(maxOf(probability, 1 - probability))).toInt()

    /** Quantiles, interpolated between neighbours, with a percentile bootstrap of circular blocks. */
    fun quantiles(
        samples: DoubleArray,
        probabilities: List<Double> = listOf(0.5, 0.9, 0.99),
        resamples: Int = 1000,
        seed: Long = 0,
    ): List<Quantile> {
        val supported = probabilities.filter { samples.size >= minimumSamples(it) }
        val sorted = samples.sortedArray()
        val replicates = if (supported.isEmpty()) emptyList() else bootstrap(samples, supported, resamples, seed)
        return probabilities.map { probability ->
            val index = supported.indexOf(probability)
            if (index < 0) return@map Quantile(probability, null, null, null, samples.size, minimumSamples(probability))
            val value = quantile(sorted, probability)
            val drawn = DoubleArray(replicates.size) { replicates[it][index] }.sortedArray()
            val (low, high) = quantile(drawn, 0.025) to quantile(drawn, 0.975)
            Quantile(probability, value, minOf(low, value), maxOf(high, value), samples.size, minimumSamples(probability))
        }
    }

    private fun bootstrap(samples: DoubleArray, levels: List<Double>, resamples: Int, seed: Long): List<DoubleArray> {
        val random = java.util.SplittableRandom(seed)
        val block = ceil(samples.size.toDouble().pow(1.0 / 3)).toInt()
        return List(resamples) {
            val drawn = DoubleArray(samples.size)
            for (at in samples.indices step block) {
                val start = random.nextInt(samples.size)
                for (i in at until minOf(at + block, samples.size)) drawn[i] = samples[(start + i - at) % samples.size]
            }
            drawn.sort()
            DoubleArray(levels.size) { quantile(drawn, levels[it]) }
        }
    }

    /** Samples above Tukey's outer fence; they are counted and never removed. */
    data class Outliers(val count: Int, val fence: Double, val largest: Double)

    fun findOutliers(samples: DoubleArray): Outliers {
        val sorted = samples.sortedArray()
        val (first, third) = quantile(sorted, 0.25) to quantile(sorted, 0.75)
        val fence = third + 3 * maxOf(third - first, 0.01 * abs(quantile(sorted, 0.5)))
        return Outliers(samples.count { it > fence }, fence, sorted.last())
    }

    /** A monotonic trend: heat, a clock's governor, a leak. */
    data class Drift(val detected: Boolean, val z: Double, val relativeChange: Double)

    fun detectDrift(samples: DoubleArray): Drift {
        if (samples.size < 20) return Drift(false, 0.0, 0.0)
        val groups = minOf(60, samples.size / 2)
        val (size, larger) = samples.size / groups to samples.size % groups
        val medians = DoubleArray(groups) { group ->
            val start = group * size + minOf(group, larger)
            median(samples.copyOfRange(start, start + size + if (group < larger) 1 else 0))
        }
        var score = 0.0
        val slopes = ArrayList<Double>()
        for (later in 1 until groups) {
            for (earlier in 0 until later) {
                score += sign(medians[later] - medians[earlier])
                slopes.add((medians[later] - medians[earlier]) / (later - earlier))
            }
        }
        val ties = medians.groupBy { it }.values.sumOf { tied -> tied.size.toDouble().let { it * (it - 1) * (2 * it + 5) } }
        val count = groups.toDouble()
        val variance = (count * (count - 1) * (2 * count + 5) - ties) / 18
        val z = if (variance > 0 && score != 0.0) (score - sign(score)) / sqrt(variance) else 0.0
        val middle = median(samples)
        val change = if (middle == 0.0) 0.0 else median(slopes.toDoubleArray()) * (groups - 1) / middle
        return Drift(abs(z) > CONFIRM_Z && abs(change) > CONFIRM_RELATIVE, z, change)
    }

    /** Whether the samples fall into two groups, such as two speeds of cores. */
    data class Modes(val bimodal: Boolean, val low: Double, val high: Double, val shareHigh: Double, val separation: Double)

    fun detectModes(samples: DoubleArray): Modes {
        val fence = findOutliers(samples).fence
        val kept = samples.filter { it <= fence }.sorted().toDoubleArray()
        val middle = kept.average()
        if (kept.size < 20 || kept.first() <= 0 || kept.last() - kept.first() <= 1e-9 * kept.last()) {
            return Modes(false, middle, middle, 0.0, 0.0)
        }
        val logs = DoubleArray(kept.size) { ln(kept[it]) }
        val count = logs.size.toDouble()
        val total = logs.sum()
        val mean = total / count
        val spread = logs.sumOf { (it - mean).pow(2) } / count
        var (below, split, most) = Triple(0.0, 1, -1.0)
        for (lower in 1 until logs.size) {
            below += logs[lower - 1]
            val apart = (total - below) / (count - lower) - below / lower
            val between = lower * (count - lower) / count.pow(2) * apart.pow(2)
            if (between > most) {
                most = between
                split = lower
            }
        }
        val separation = most / spread
        val share = 1 - split / count
        val (low, high) = kept.copyOf(split).average() to kept.copyOfRange(split, kept.size).average()
        return Modes(separation >= SEPARATED && share in 0.1..0.9 && high >= 1.05 * low, low, high, share, separation)
    }

    /** The quantile of sorted values, interpolated between neighbours. */
    fun quantile(sorted: DoubleArray, probability: Double): Double {
        val at = probability * (sorted.size - 1)
        val below = at.toInt()
        val above = minOf(below + 1, sorted.size - 1)
        return sorted[below] + (sorted[above] - sorted[below]) * (at - below)
    }

    fun median(samples: DoubleArray): Double = quantile(samples.sortedArray(), 0.5)
}
