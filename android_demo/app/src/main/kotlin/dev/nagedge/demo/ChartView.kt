package dev.nagedge.demo

import android.content.Context
import android.graphics.Canvas
import android.graphics.Paint
import android.graphics.Path
import android.util.AttributeSet
import android.view.View
import java.util.Locale

/** The loss of every step of the last lessons. */
class ChartView(context: Context, attributes: AttributeSet?) : View(context, attributes) {
    private val losses = ArrayList<Float>()
    private val density = resources.displayMetrics.density
    private val line = Paint(Paint.ANTI_ALIAS_FLAG)
    private val axis = Paint(Paint.ANTI_ALIAS_FLAG)
    private val path = Path()

    init {
        line.style = Paint.Style.STROKE
        line.strokeWidth = 2 * density
        line.color = context.getColor(R.color.accent)
        axis.color = context.getColor(R.color.quiet)
        axis.textSize = 11 * density * resources.configuration.fontScale
    }

    fun add(loss: Float) {
        losses.add(loss)
        invalidate()
    }

    fun clear() {
        losses.clear()
        invalidate()
    }

    override fun onDraw(canvas: Canvas) {
        val bottom = height - axis.textSize - 4 * density
        canvas.drawLine(0f, bottom, width.toFloat(), bottom, axis)
        if (losses.isEmpty()) return
        val highest = losses.max()
        canvas.drawText(String.format(Locale.getDefault(), "%.3g", highest), 0f, axis.textSize, axis)
        canvas.drawText("${losses.size}", width - axis.measureText("${losses.size}"), height.toFloat() - density, axis)
        path.reset()
        losses.forEachIndexed { index, loss ->
            val x = width * index / maxOf(1f, losses.size - 1f)
            val y = bottom * (1 - loss / maxOf(highest, Float.MIN_VALUE))
            if (index == 0) path.moveTo(x, y) else path.lineTo(x, y)
        }
        canvas.drawPath(path, line)
    }
}
