package dev.nagedge.demo

import android.content.Context
import android.graphics.Canvas
import android.graphics.Paint
import android.util.AttributeSet
import android.view.MotionEvent
import android.view.View

/** A bar for each of some names, as long as its share; a tap chooses one. */
class BarsView(context: Context, attributes: AttributeSet?) : View(context, attributes) {
    /** Told of the index that was tapped. */
    var onTap: (Int) -> Unit = {}

    /** @property share 0 to 1; null while there is nothing to say. @property chosen by the person. */
    class Bar(val name: String, val share: Float?, val chosen: Boolean)

    private var bars: List<Bar> = emptyList()
    private val density = resources.displayMetrics.density
    private val rowHeight = ROW_DP * density
    private val text = Paint(Paint.ANTI_ALIAS_FLAG)
    private val fill = Paint(Paint.ANTI_ALIAS_FLAG)
    private var downAt = -1

    init {
        text.textSize = TEXT_SP * density * resources.configuration.fontScale
        text.color = context.getColor(R.color.text)
    }

    fun show(shown: List<Bar>) {
        val resized = shown.size != bars.size
        bars = shown
        contentDescription = shown.joinToString { bar -> bar.name + (bar.share?.let { " ${percent(it)}" } ?: "") }
        if (resized) requestLayout()
        invalidate()
    }

    override fun onMeasure(widthMeasureSpec: Int, heightMeasureSpec: Int) {
        setMeasuredDimension(MeasureSpec.getSize(widthMeasureSpec), (rowHeight * rows()).toInt())
    }

    /** Two columns where there are many. */
    private fun columns() = if (bars.size > MANY) 2 else 1

    private fun rows() = (bars.size + columns() - 1) / columns()

    override fun onDraw(canvas: Canvas) {
        val columnWidth = width.toFloat() / columns()
        bars.forEachIndexed { index, bar ->
            val left = index / rows() * columnWidth
            val top = index % rows() * rowHeight
            val (inset, right) = 3 * density to left + columnWidth - 6 * density
            fill.color = context.getColor(R.color.accent_soft)
            canvas.drawRect(left, top + inset, left + (right - left) * (bar.share ?: 0f), top + rowHeight - inset, fill)
            if (bar.chosen) {
                fill.color = context.getColor(R.color.good)
                canvas.drawRect(left, top + inset, left + 4 * density, top + rowHeight - inset, fill)
            }
            val base = top + rowHeight / 2 + text.textSize / 3
            text.textAlign = Paint.Align.LEFT
            text.isFakeBoldText = bar.chosen
            canvas.drawText(bar.name, left + 10 * density, base, text)
            text.textAlign = Paint.Align.RIGHT
            bar.share?.let { canvas.drawText(percent(it), right - 6 * density, base, text) }
        }
    }

    override fun onTouchEvent(event: MotionEvent): Boolean {
        if (!isEnabled) return false
        when (event.actionMasked) {
            MotionEvent.ACTION_DOWN -> downAt = indexAt(event.x, event.y)
            MotionEvent.ACTION_UP -> {
                performClick()
                val index = indexAt(event.x, event.y)
                if (index == downAt && index in bars.indices) onTap(index)
            }
            else -> return true
        }
        return true
    }

    private fun indexAt(x: Float, y: Float): Int {
        val row = (y / rowHeight).toInt().coerceIn(0, maxOf(0, rows() - 1))
        return (x / (width.toFloat() / columns())).toInt().coerceIn(0, columns() - 1) * rows() + row
    }

    private fun percent(share: Float) = "${Math.round(share * 100)} %"

    private companion object {
        const val MANY = 5
        const val ROW_DP = 40
        const val TEXT_SP = 15
    }
}
