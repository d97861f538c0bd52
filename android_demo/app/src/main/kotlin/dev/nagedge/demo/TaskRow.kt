package dev.nagedge.demo

import android.text.Editable
import android.text.TextWatcher
import android.view.LayoutInflater
import android.view.View
import android.view.ViewGroup
import android.widget.EditText
import android.widget.TextView
import dev.nagedge.core.Answer
import dev.nagedge.core.TaskEntry
import dev.nagedge.core.TaskKind
import java.util.Locale

/** One task on the screen: what the model says, and what the person says instead. */
interface TaskRow {
    val task: TaskEntry
    val view: View

    /** Null while nothing is drawn. */
    fun show(answer: Answer?)

    /** The right target in the task's unit: the person's where there is one, else what the model says; null while empty. */
    fun target(): FloatArray?

    /** Forget what the person said. */
    fun reset()
}

/** @param changed told when the person said something. */
fun taskRow(task: TaskEntry, names: List<String>, parent: ViewGroup, changed: () -> Unit): TaskRow =
    if (task.kind == TaskKind.REGRESSION) ValueRow(task, parent, changed) else ChoiceRow(task, names, parent, changed)

/** Classes of which one is right, or labels each of which is or is not. */
private class ChoiceRow(
    override val task: TaskEntry,
    private val names: List<String>,
    parent: ViewGroup,
    private val changed: () -> Unit,
) : TaskRow {
    override val view: View = LayoutInflater.from(parent.context).inflate(R.layout.choice_task, parent, false)
    private val bars = view.findViewById<BarsView>(R.id.bars)
    private val verdict = view.findViewById<TextView>(R.id.verdict)
    private val oneOf = task.kind == TaskKind.CLASSIFICATION
    private var answer: Answer? = null
    private var said: FloatArray? = null

    init {
        view.findViewById<TextView>(R.id.task_name).text = task.name.replace('_', ' ')
        bars.onTap = { index ->
            answer?.let {
                said = if (oneOf) floatArrayOf(index.toFloat()) else (said ?: it.decision).copyOf().also { all -> all[index] = 1 - all[index] }
                draw()
                changed()
            }
        }
        draw()
    }

    override fun show(answer: Answer?) {
        this.answer = answer
        draw()
    }

    override fun target(): FloatArray? = answer?.let { said ?: it.decision }

    override fun reset() {
        said = null
        draw()
    }

    private fun draw() {
        val shown = answer
        val chosen = said
        bars.show(
            names.mapIndexed { index, name ->
                val isChosen = chosen != null && if (oneOf) chosen[0].toInt() == index else chosen[index] == 1f
                BarsView.Bar(name, shown?.shown?.get(index), isChosen)
            },
        )
        val context = view.context
        val model = shown?.decision?.get(0)?.toInt()
        verdict.text = when {
            shown == null || model == null || !oneOf -> ""
            chosen != null && chosen[0].toInt() != model ->
                context.getString(R.string.disagree, names[chosen[0].toInt()], names[model])
            else -> context.getString(R.string.sure, names[model], Math.round(shown.shown[model] * 100))
        }
    }
}

/** Values with their unit; one field, for the first of them. */
private class ValueRow(override val task: TaskEntry, parent: ViewGroup, private val changed: () -> Unit) : TaskRow {
    override val view: View = LayoutInflater.from(parent.context).inflate(R.layout.value_task, parent, false)
    private val value = view.findViewById<TextView>(R.id.value)
    private val field = view.findViewById<EditText>(R.id.right_value)
    private var answer: Answer? = null

    init {
        val name = task.name.replace('_', ' ')
        view.findViewById<TextView>(R.id.task_name).text = name
        field.contentDescription = "$name ${task.unit}"
        field.addTextChangedListener(object : TextWatcher {
            override fun beforeTextChanged(text: CharSequence?, start: Int, count: Int, after: Int) = Unit

            override fun onTextChanged(text: CharSequence?, start: Int, before: Int, count: Int) = Unit

            override fun afterTextChanged(text: Editable?) = changed()
        })
        show(null)
    }

    override fun show(answer: Answer?) {
        this.answer = answer
        field.isEnabled = answer != null
        value.text = when (answer) {
            null -> view.context.getString(R.string.none)
            else -> answer.shown.joinToString { String.format(Locale.getDefault(), "%.3g", it) } + " " + task.unit
        }
    }

    override fun target(): FloatArray? = answer?.let {
        val written = field.text.toString().replace(',', '.').toFloatOrNull()
        if (written == null) it.shown else it.shown.copyOf().also { all -> all[0] = written }
    }

    override fun reset() = field.setText("")
}
