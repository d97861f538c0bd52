package dev.nagedge.demo

import android.content.Context
import android.graphics.Canvas
import android.graphics.Paint
import android.graphics.Path
import android.util.AttributeSet
import android.view.MotionEvent
import android.view.View
import dev.nagedge.core.Drawing

/** A square to draw in with a finger. What the model sees of it, [Drawing] computes. */
class DrawingView(context: Context, attributes: AttributeSet?) : View(context, attributes) {
    /** Told of every change by the person. */
    var onChange: () -> Unit = {}

    /** Light ink on dark, as the model knows it, or dark on light. */
    var dark: Boolean = true
        set(value) {
            field = value
            invalidate()
        }

    var drawing: Drawing = Drawing()
        private set

    private val ink = Paint(Paint.ANTI_ALIAS_FLAG)
    private val hint = Paint(Paint.ANTI_ALIAS_FLAG)
    private val path = Path()
    private val invitation = context.getString(R.string.invitation)

    init {
        ink.style = Paint.Style.STROKE
        ink.strokeCap = Paint.Cap.ROUND
        ink.strokeJoin = Paint.Join.ROUND
        hint.color = GREY
        hint.textAlign = Paint.Align.CENTER
        hint.textSize = HINT_DP * resources.displayMetrics.density
    }

    fun clear() = replace(Drawing())

    fun undo() = replace(drawing.withoutLast())

    private fun replace(by: Drawing) {
        drawing = by
        invalidate()
        onChange()
    }

    /** A square as large as it fits, but no larger than most of a screen that lies on its side. */
    override fun onMeasure(widthMeasureSpec: Int, heightMeasureSpec: Int) {
        val available = MeasureSpec.getSize(widthMeasureSpec)
        val side = minOf(available, resources.displayMetrics.heightPixels * 3 / 5)
        setMeasuredDimension(available, side)
    }

    private val side: Float get() = minOf(width, height).toFloat()
    private val left: Float get() = (width - side) / 2

    override fun onDraw(canvas: Canvas) {
        val start = left
        ink.color = if (dark) BLACK else WHITE
        ink.style = Paint.Style.FILL
        canvas.drawRect(start, 0f, start + side, side, ink)
        ink.color = if (dark) WHITE else BLACK
        ink.style = Paint.Style.STROKE
        ink.strokeWidth = Drawing.PEN * side
        for (stroke in drawing.strokes) {
            path.reset()
            stroke.forEachIndexed { index, point ->
                val (x, y) = start + point.x * side to point.y * side
                if (index == 0) path.moveTo(x, y) else path.lineTo(x, y)
                if (stroke.size == 1) path.lineTo(x + 0.1f, y)
            }
            canvas.drawPath(path, ink)
        }
        if (drawing.isEmpty) canvas.drawText(invitation, width / 2f, side / 2, hint)
    }

    override fun onTouchEvent(event: MotionEvent): Boolean {
        if (!isEnabled) return false
        when (event.actionMasked) {
            MotionEvent.ACTION_DOWN -> {
                parent.requestDisallowInterceptTouchEvent(true) // the page shall not scroll away under the finger
                drawing = drawing.begun(point(event.x, event.y))
            }
            MotionEvent.ACTION_MOVE -> {
                for (past in 0 until event.historySize) {
                    drawing = drawing.continued(point(event.getHistoricalX(past), event.getHistoricalY(past)))
                }
                drawing = drawing.continued(point(event.x, event.y))
            }
            MotionEvent.ACTION_UP -> performClick()
            else -> return false
        }
        invalidate()
        onChange()
        return true
    }

    private fun point(x: Float, y: Float) =
        Drawing.Point(((x - left) / side).coerceIn(0f, 1f), (y / side).coerceIn(0f, 1f))

    private companion object {
        const val BLACK = 0xFF000000.toInt()
        const val WHITE = 0xFFFFFFFF.toInt()
        const val GREY = 0xFF808890.toInt()
        const val HINT_DP = 20
    }
}
