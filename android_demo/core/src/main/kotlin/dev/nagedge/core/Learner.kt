package dev.nagedge.core

import java.io.File
import java.io.InputStream
import java.io.OutputStream

/** How the exported model and the present one do on some examples, by task. */
class BeforeAfter(val task: TaskEntry, val before: Score, val after: Score)

/**
 * Everything that an app does with a bundle: predict, keep examples, learn, reset, hand weights over.
 *
 * What was learnt and the examples lie in [folder]. Not for two threads at once: give it a thread of its own.
 *
 * @param threads inside an operator.
 */
class Learner(val bundle: Bundle, private val folder: File, private val threads: Int = 1) : AutoCloseable {
    val manifest: Manifest get() = bundle.manifest
    private val weights = WeightStore(File(folder, "personal.safetensors"), bundle)
    private val exampleStore = ExampleStore(File(folder, "examples.safetensors"), bundle)
    private val batcher = Batcher(manifest, bundle.batch)

    /** What could not be loaded and was set aside, for the person to be told; empty when all is well. */
    val problems: List<String>

    /** Steps that the present weights have learnt. */
    var steps: Long = 0
        private set

    var examples: List<Example> = emptyList()
        private set

    private val trainer: Trainer
    private val original: Predictor
    private var personal: Predictor? = null

    init {
        val found = ArrayList<String>()
        fun <T> orAside(file: File, otherwise: T, load: () -> T): T = try {
            load()
        } catch (error: NagEdgeException) {
            // Kept under another name: a newer app or a person may still make something of it.
            file.renameTo(File(file.path + ".unreadable"))
            found.add(error.message.orEmpty())
            otherwise
        }
        val learnt = orAside(weights.file, null) { weights.load() }
        examples = orAside(exampleStore.file, emptyList()) { exampleStore.load() }
        problems = found
        trainer = Trainer.open(bundle, learnt?.state, threads)
        steps = learnt?.steps ?: 0
        original = Predictor.open(bundle, threads = threads)
        refresh()
    }

    /** What the model says of one example, by task: as it is now, or as it was exported. */
    fun answer(inputs: Map<String, Tensor>, exported: Boolean = false): Map<String, Answer> =
        answers(listOf(Example(inputs, emptyMap())), exported).single()

    /** Keep an example; every [HELD]th of a class (or of all, without a task of classes) is not learnt from. */
    fun keep(inputs: Map<String, Tensor>, targets: Map<String, FloatArray>) {
        val classes = manifest.tasks.firstOrNull { it.kind == TaskKind.CLASSIFICATION }
        val alike = examples.count { classes == null || it.targets[classes.name].contentEquals(targets[classes.name]) }
        val more = examples + Example(inputs, targets, held = alike % HELD == HELD - 1)
        exampleStore.save(more)
        examples = more
    }

    /** Forget the example that was kept last. */
    fun forgetLast() {
        val fewer = examples.dropLast(1)
        exampleStore.save(fewer)
        examples = fewer
    }

    /** A lesson over the examples that are not held; see [learn]. Afterwards predictions are those of what was learnt. */
    fun lesson(plan: LessonPlan, goOn: (StepReport) -> Boolean): LessonResult {
        val learnt = examples.filter { !it.held }
        if (learnt.isEmpty()) throw NagEdgeException("there is no example to learn from: draw something and keep it")
        val fitting = bundle.batch?.let { plan.copy(batch = it) } ?: plan
        val save = { now: PersonalWeights ->
            weights.save(now)
            steps = now.steps
        }
        try {
            return learn(trainer, batcher, learnt, fitting, steps, save, goOn)
        } finally {
            refresh()
        }
    }

    /** How the exported and the present model do on examples that were learnt, or on those that were not. */
    fun compare(held: Boolean): List<BeforeAfter> {
        val some = examples.filter { it.held == held }
        val (before, after) = answers(some, exported = true) to answers(some, exported = false)
        fun score(task: TaskEntry, said: List<Map<String, Answer>>) = Score.of(
            task, said.indices.map { said[it].getValue(task.name).decision to some[it].targets.getValue(task.name) },
        )
        return manifest.tasks.map { BeforeAfter(it, score(it, before), score(it, after)) }
    }

    /** The exported weights again; examples stay unless they are to go too. */
    fun reset(forgetExamples: Boolean) {
        weights.delete()
        trainer.restore(bundle.initialState())
        steps = 0
        if (forgetExamples) {
            exampleStore.delete()
            examples = emptyList()
        }
        refresh()
    }

    /** Write the personal weights for another device with the same bundle. */
    fun exportTo(out: OutputStream) = weights.write(PersonalWeights(trainer.state(), steps), out)

    /** @throws WeightsException they are damaged or of another export; then nothing has changed. */
    fun importFrom(stream: InputStream) {
        val given = weights.read(stream)
        weights.save(given)
        trainer.restore(given.state)
        steps = given.steps
        refresh()
    }

    private fun answers(some: List<Example>, exported: Boolean): List<Map<String, Answer>> {
        val predictor = personal.takeIf { !exported } ?: original
        return some.chunked(bundle.batch ?: AT_ONCE).flatMap { predictor.answers(batcher.inputs(it)).take(it.size) }
    }

    /** Let predictions use the trainer's weights: a new session, as the runtime packs constant weights when it makes one. */
    private fun refresh() {
        val fresh = if (steps == 0L) null else Predictor.open(bundle, trainer.state().learnt(), threads)
        personal?.close()
        personal = fresh
    }

    override fun close() {
        personal?.close()
        original.close()
        trainer.close()
    }

    companion object {
        /** One of so many examples is kept aside. */
        const val HELD = 4
        private const val AT_ONCE = 64
    }
}
