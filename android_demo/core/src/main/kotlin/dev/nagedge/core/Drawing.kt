package dev.nagedge.core

import kotlin.math.abs
import kotlin.math.hypot
import kotlin.math.max
import kotlin.math.roundToInt

/**
 * What a person drew, as lines in a square of side 1, and the image that the model sees of it.
 *
 * The image is computed here and not by a view, so that it is the same on every screen and can be tested.
 */
class Drawing(val strokes: List<List<Point>> = emptyList()) {
    /** A place in the square: 0 is left or top, 1 right or bottom. */
    data class Point(val x: Float, val y: Float)

    val isEmpty: Boolean get() = strokes.all { it.isEmpty() }

    fun begun(at: Point) = Drawing(strokes.plusElement(listOf(at)))

    fun continued(to: Point) = Drawing(strokes.dropLast(1).plusElement(strokes.last() + to))

    fun withoutLast() = Drawing(strokes.dropLast(1))

    /**
     * The ink in every pixel, 0 to 1: round strokes of [PEN] of the shorter side, their edge one pixel soft.
     *
     * @return row-major `[height, width]`.
     */
    fun ink(height: Int, width: Int): FloatArray {
        val radius = max(1f, PEN * minOf(height, width)) / 2
        return FloatArray(height * width) { pixel ->
            val (x, y) = pixel % width + 0.5f to pixel / width + 0.5f
            val nearest = strokes.filter { it.isNotEmpty() }.minOfOrNull { stroke -> distance(stroke, x, y, height, width) }
            if (nearest == null) 0f else (radius + 0.5f - nearest).coerceIn(0f, 1f)
        }
    }

    private fun distance(stroke: List<Point>, x: Float, y: Float, height: Int, width: Int): Float {
        if (stroke.size == 1) return hypot(stroke[0].x * width - x, stroke[0].y * height - y)
        return stroke.zipWithNext().minOf { (from, to) ->
            val (ax, ay) = from.x * width to from.y * height
            val (dx, dy) = to.x * width - ax to to.y * height - ay
            val length = dx * dx + dy * dy
            val along = if (length == 0f) 0f else (((x - ax) * dx + (y - ay) * dy) / length).coerceIn(0f, 1f)
            hypot(ax + along * dx - x, ay + along * dy - y)
        }
    }

    companion object {
        /** Width of the pen as a share of the shorter side; the digits of the demonstration are written like that. */
        const val PEN = 0.085f
    }
}

/**
 * How raw pixels of an image input look: the value of white, and whether images are mostly dark.
 *
 * A manifest says what is done to raw values, not their range. It is 0 to 255, as of image files, unless 255 would be
 * far outside of what the model was trained on: then 0 to 1.
 */
class ImageInput(val entry: InputEntry, steps: List<PreparationStep>) {
    val channels: Int
    val height: Int
    val width: Int
    val white: Float
    val dark: Boolean
    private val steps: List<PreparationStep>

    init {
        val shape = entry.tensor.rowShape
        if (!isImage(entry)) throw BundleException("input ${entry.name} is no image that can be drawn")
        channels = shape[0].toInt()
        height = shape[1].toInt()
        width = shape[2].toInt()
        this.steps = steps
        val local = steps.filter { it !is PreparationStep.Resize }
        fun all(value: Float) = Planes(channels, 1, 1, FloatArray(channels) { value })
        val brightest = all(255f).prepared(local).values.maxOf { abs(it) }
        white = if (brightest <= abs(entry.mean) + FAR * entry.std) 255f else 1f
        // Which of black and white is nearer to what the model saw on average?
        fun offMean(value: Float) = all(value).prepared(local).values.map { abs(it - entry.mean) }.average()
        dark = offMean(0f) <= offMean(white)
    }

    /** The prepared input without the batch axis: light ink on dark, or dark on light, as the model knows it. */
    fun prepared(drawing: Drawing): Tensor {
        val ink = drawing.ink(height, width)
        // As a picture has it: whole steps of 255.
        val shades = FloatArray(ink.size) { ((if (dark) ink[it] else 1 - ink[it]) * 255).roundToInt().toFloat() }
        val raw = FloatArray(channels * ink.size) { shades[it % ink.size] / 255f * white }
        val planes = Planes(channels, height, width, if (white == 255f) wholes(shades) else raw).prepared(steps)
        return Tensor.of(planes.values, channels.toLong(), height.toLong(), width.toLong())
    }

    private fun wholes(shades: FloatArray) = FloatArray(channels * shades.size) { shades[it % shades.size] }

    companion object {
        private const val FAR = 20

        fun isImage(entry: InputEntry): Boolean {
            val shape = entry.tensor.rowShape
            return entry.tensor.dtype == Dtype.FLOAT32 && shape.size == 3 && shape[0] in listOf(1L, 3L) &&
                shape[1] > 1 && shape[2] > 1
        }
    }
}
