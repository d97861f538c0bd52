package dev.nagedge.demo

import android.app.Activity
import android.app.AlertDialog
import android.content.Intent
import android.os.Bundle
import android.view.View
import android.widget.Button
import android.widget.LinearLayout
import android.widget.TextView
import android.widget.Toast
import dev.nagedge.core.Answer
import dev.nagedge.core.BundleException
import dev.nagedge.core.ImageInput
import dev.nagedge.core.Learner
import dev.nagedge.core.LessonPlan
import dev.nagedge.core.RecentLatency
import dev.nagedge.core.TaskKind
import java.util.concurrent.atomic.AtomicBoolean

/** Draw, see what every task says, correct it, and watch the model learn. */
class MainActivity : Activity() {
    private lateinit var pad: DrawingView
    private lateinit var image: ImageInput
    private var rows: List<TaskRow> = emptyList()
    private val stopAsked = AtomicBoolean()
    private var learning = false
    private var predicting = false
    private var outdated = false
    private val predictionTimes = RecentLatency()
    private val stepTimes = RecentLatency()

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.main)
        pad = findViewById(R.id.pad)
        pad.isEnabled = false
        pad.onChange = { predict() }
        onTap(R.id.undo) { pad.undo() }
        onTap(R.id.clear) { startAnew() }
        onTap(R.id.keep) { keep() }
        onTap(R.id.forget) { workshop.ask({ it.forgetLast() }, ::tell) { showState() } }
        onTap(R.id.learn) { if (learning) stopAsked.set(true) else learn() }
        onTap(R.id.background) { toggleBackground() }
        onTap(R.id.reset) { askReset() }
        onTap(R.id.export_weights) { chooseFile(Intent.ACTION_CREATE_DOCUMENT, EXPORT) }
        onTap(R.id.import_weights) { chooseFile(Intent.ACTION_OPEN_DOCUMENT, IMPORT) }
        workshop.ask({ Opened(it, imageOf(it)) }, ::tell) { opened(it) }
    }

    private class Opened(val learner: Learner, val image: ImageInput)

    private fun imageOf(learner: Learner): ImageInput {
        val manifest = learner.manifest
        val input = manifest.inputs.singleOrNull()
            ?: throw BundleException("this app draws one image, the model takes ${manifest.inputs.size} inputs")
        return ImageInput(input, manifest.preprocessing.stepsFor(input.name))
    }

    /** The manifest never changes, so that the screen may read it while the learner works. */
    private fun opened(opened: Opened) {
        val (learner, manifest) = opened.learner to opened.learner.manifest
        image = opened.image
        pad.dark = image.dark
        pad.isEnabled = true
        text(R.id.headline).text = getString(R.string.model, manifest.model, learner.bundle.hash.take(12))
        val tasks = findViewById<LinearLayout>(R.id.tasks)
        rows = manifest.tasks.map { task ->
            val names = if (task.kind == TaskKind.BINARY) listOf(task.name) else manifest.preprocessing.classNames(task)
            taskRow(task, names, tasks) { enable() }.also { tasks.addView(it.view) }
        }
        if (learner.problems.isNotEmpty()) show(learner.problems.joinToString("\n"))
        showState()
    }

    override fun onDestroy() {
        stopAsked.set(true) // a lesson saves what it has, and a later one goes on from there
        super.onDestroy()
    }

    /** Show the answers to what is drawn now; while one prediction runs, only the newest drawing waits. */
    private fun predict() {
        enable()
        if (predicting) {
            outdated = true
            return
        }
        val drawing = pad.drawing
        if (drawing.isEmpty) {
            rows.forEach { it.show(null) }
            enable()
            return
        }
        predicting = true
        workshop.ask(
            work = { learner ->
                val inputs = mapOf(image.entry.name to image.prepared(drawing))
                val started = System.nanoTime()
                val answers = learner.answer(inputs)
                answers to System.nanoTime() - started
            },
            failed = {
                predicting = false
                tell(it)
            },
            done = { (answers, durationNs) ->
                predicting = false
                predictionTimes.add(durationNs)
                showAnswers(answers)
                if (outdated || pad.drawing.isEmpty) {
                    outdated = false
                    predict()
                }
            },
        )
    }

    private fun showAnswers(answers: Map<String, Answer>) {
        for (row in rows) row.show(answers.getValue(row.task.name))
        showLatency()
        enable()
    }

    private fun startAnew() {
        rows.forEach { it.reset() }
        pad.clear()
    }

    private fun keep() {
        val drawing = pad.drawing
        val targets = rows.associate { it.task.name to (it.target() ?: return) }
        startAnew()
        workshop.ask({ it.keep(mapOf(image.entry.name to image.prepared(drawing)), targets) }, ::tell) { showState() }
    }

    private fun learn() {
        learning = true
        stopAsked.set(false)
        enable()
        val chart = findViewById<ChartView>(R.id.chart)
        workshop.ask(
            work = { learner ->
                learner.lesson(LessonPlan(STEPS, BATCH, learner.bundle.training.settings)) { report ->
                    runOnUiThread {
                        chart.add(report.loss)
                        stepTimes.add(report.durationNs)
                        text(R.id.progress).text = getString(R.string.learning_step, report.step + 1, report.loss)
                        showLatency()
                    }
                    !stopAsked.get()
                }
            },
            failed = {
                learning = false
                tell(it)
                showState()
            },
            done = {
                learning = false
                showState()
                predict()
            },
        )
    }

    private class State(val learnt: Int, val held: Int, val steps: Long, val scores: String)

    /** Count examples and compare before with after, on the learner's thread, and show it. */
    private fun showState() = workshop.ask(
        work = { learner ->
            val scores = listOf(false to R.string.learnt_from, true to R.string.kept_aside).mapNotNull { (held, title) ->
                if (learner.steps == 0L || learner.examples.none { it.held == held }) return@mapNotNull null
                "${getString(title)}\n" + learner.compare(held).joinToString("\n") { scoreLine(it) }
            }
            State(
                learnt = learner.examples.count { !it.held },
                held = learner.examples.count { it.held },
                steps = learner.steps,
                scores = scores.joinToString("\n"),
            )
        },
        failed = ::tell,
        done = { state ->
            text(R.id.examples).text = getString(R.string.examples, state.learnt, state.held)
            text(R.id.steps).text =
                if (state.steps == 0L) getString(R.string.factory) else getString(R.string.learnt_steps, state.steps)
            text(R.id.scores).text = state.scores
            canLearn = state.learnt > 0
            canForget = state.learnt + state.held > 0
            opened = true
            enable()
        },
    )

    private var canLearn = false
    private var canForget = false
    private var opened = false

    private fun enable() {
        val ready = opened && !learning
        button(R.id.keep).isEnabled = ready && !pad.drawing.isEmpty && rows.all { it.target() != null }
        button(R.id.forget).isEnabled = ready && canForget
        button(R.id.learn).isEnabled = opened && (learning || canLearn)
        button(R.id.learn).text = getString(if (learning) R.string.stop else R.string.learn)
        for (id in listOf(R.id.background, R.id.reset, R.id.export_weights, R.id.import_weights)) button(id).isEnabled = ready
        val scheduled = FineTuneJob.isScheduled(this)
        button(R.id.background).text = getString(if (scheduled) R.string.background_off else R.string.background)
    }

    private fun scoreLine(result: dev.nagedge.core.BeforeAfter): String {
        val (before, after) = result.before to result.after
        val name = result.task.name.replace('_', ' ')
        val (right, rightNow) = before.right to after.right
        if (right != null && rightNow != null) return getString(R.string.score_labels, name, right, rightNow, after.of)
        fun short(value: Double?) = String.format(java.util.Locale.getDefault(), "%.3g", value ?: 0.0)
        return getString(R.string.score_values, name, short(before.off), short(after.off), result.task.unit)
    }

    private fun showLatency() {
        fun ms(times: RecentLatency, share: Double) =
            times.quantileMs(share)?.let { getString(R.string.milliseconds, it) } ?: getString(R.string.none)
        text(R.id.latency).text = getString(
            R.string.latency, ms(predictionTimes, 0.5), ms(predictionTimes, 0.9), ms(stepTimes, 0.5), ms(stepTimes, 0.9),
        )
    }

    private fun toggleBackground() {
        if (FineTuneJob.isScheduled(this)) {
            FineTuneJob.cancel(this)
            toast(R.string.unscheduled)
        } else if (FineTuneJob.schedule(this)) {
            toast(R.string.scheduled)
        }
        enable()
    }

    private fun askReset() {
        val choices = arrayOf<CharSequence>(getString(R.string.reset_weights), getString(R.string.reset_all))
        AlertDialog.Builder(this)
            .setTitle(R.string.reset_question)
            .setItems(choices) { _, which ->
                workshop.ask({ it.reset(forgetExamples = which == 1) }, ::tell) {
                    findViewById<ChartView>(R.id.chart).clear()
                    text(R.id.progress).text = ""
                    showState()
                    predict()
                }
            }
            .setNegativeButton(R.string.cancel, null)
            .show()
    }

    private fun chooseFile(action: String, request: Int) {
        val intent = Intent(action).addCategory(Intent.CATEGORY_OPENABLE).setType("application/octet-stream")
        if (request == EXPORT) intent.putExtra(Intent.EXTRA_TITLE, "personal.safetensors")
        startActivityForResult(intent, request)
    }

    override fun onActivityResult(requestCode: Int, resultCode: Int, data: Intent?) {
        val place = data?.data
        if (resultCode != RESULT_OK || place == null) return
        if (requestCode == EXPORT) {
            workshop.ask(
                { learner -> contentResolver.openOutputStream(place)!!.use { learner.exportTo(it) } }, ::tell,
            ) { toast(R.string.exported) }
        } else {
            workshop.ask(
                { learner -> contentResolver.openInputStream(place)!!.use { learner.importFrom(it) }.let { learner.steps } }, ::tell,
            ) { steps ->
                Toast.makeText(this, getString(R.string.imported, steps), Toast.LENGTH_LONG).show()
                showState()
                predict()
            }
        }
    }

    private fun tell(error: Throwable) =
        show(if (error is NoBundleException) getString(R.string.no_bundle) else error.message ?: error.toString())

    private fun show(problem: String) {
        text(R.id.problem).text = problem
        text(R.id.problem).visibility = View.VISIBLE
    }

    private fun toast(id: Int) = Toast.makeText(this, id, Toast.LENGTH_LONG).show()

    private fun text(id: Int): TextView = findViewById(id)

    private fun button(id: Int): Button = findViewById(id)

    private fun onTap(id: Int, act: () -> Unit) = button(id).setOnClickListener { act() }

    private companion object {
        const val STEPS = 50
        const val BATCH = 16
        const val EXPORT = 1
        const val IMPORT = 2
    }
}
