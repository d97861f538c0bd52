package dev.nagedge.core

import java.io.File
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue
import org.junit.Test

class LessonTest {
    private val bundle = Golden.bundle()
    private val examples = Golden.examples(bundle, 11)
    private val batcher = Batcher(bundle.manifest, bundle.batch)
    private val plan = LessonPlan(steps = 40, batch = 4, settings = Settings(0.02f, 0.9f, 0.01f), seed = 3, saveEvery = 7)

    private fun uninterrupted(): Pair<TrainingState, List<Float>> = Trainer.open(bundle).use { trainer ->
        val result = learn(trainer, batcher, examples, plan, 0, {}) { true }
        assertTrue(result.finished)
        trainer.state() to result.steps.map { it.loss }
    }

    @Test
    fun `going on from the file gives the same bits as never stopping`(): Unit = Golden.inFolder { folder ->
        val (expected, losses) = uninterrupted()
        val store = WeightStore(File(folder, "personal"), bundle)
        val found = ArrayList<Float>()
        // Every part is another session, as after a kill: only the file is left of the one before.
        for (stopAfter in listOf(3, 10, 1, 26)) {
            val from = store.load()
            Trainer.open(bundle, from?.state).use { trainer ->
                val rest = plan.copy(steps = plan.steps - found.size)
                var made = 0
                val result = learn(trainer, batcher, examples, rest, from?.steps ?: 0, { store.save(it) }) { ++made < stopAfter }
                found += result.steps.map { it.loss }
                assertEquals(result.steps.size == rest.steps, result.finished)
            }
        }
        assertEquals(losses, found)
        assertEquals(40, store.load()!!.steps)
        assertTrue(expected.sameAs(store.load()!!.state))
    }

    @Test
    fun `a kill between two saves goes on from the last one`(): Unit = Golden.inFolder { folder ->
        val (expected, _) = uninterrupted()
        val store = WeightStore(File(folder, "personal"), bundle)
        Trainer.open(bundle).use { trainer ->
            var made = 0
            assertFailsWith<InterruptedException> {
                learn(trainer, batcher, examples, plan, 0, { store.save(it) }) {
                    if (++made == 17) throw InterruptedException("killed")
                    true
                }
            }
            assertTrue(trainer.state().sameAs(store.load()!!.state), "the trainer is at what was saved")
        }
        val from = store.load()!!
        assertEquals(14, from.steps)
        Trainer.open(bundle, from.state).use { trainer ->
            learn(trainer, batcher, examples, plan.copy(steps = 26), from.steps, { store.save(it) }) { true }
        }
        assertTrue(expected.sameAs(store.load()!!.state))
    }

    @Test
    fun `a lesson that is cancelled saves what it has`() {
        val saved = ArrayList<PersonalWeights>()
        Trainer.open(bundle).use { trainer ->
            val result = learn(trainer, batcher, examples, plan, 0, { saved.add(it) }) { it.step < 9 }
            assertEquals(10, result.steps.size)
            assertTrue(!result.finished)
            assertEquals(listOf(7L, 10L), saved.map { it.steps })
            assertTrue(trainer.state().sameAs(saved.last().state))
        }
    }

    @Test
    fun `progress tells every step with all its losses`(): Unit = Trainer.open(bundle).use { trainer ->
        val reports = ArrayList<StepReport>()
        learn(trainer, batcher, examples, plan, 100, {}) { reports.add(it) }
        assertEquals((100L..139L).toList(), reports.map { it.step })
        val names = setOf("loss") + bundle.manifest.tasks.map { "loss.${it.name}" }
        for (report in reports) assertEquals(names, report.losses.keys)
        val (first, last) = reports.take(6).map { it.loss }.average() to reports.takeLast(6).map { it.loss }.average()
        assertTrue(last < first, "$first $last")
    }

    @Test
    fun `a lesson that diverges leaves everything as it was`(): Unit = Trainer.open(bundle).use { trainer ->
        val saved = ArrayList<PersonalWeights>()
        val wild = plan.copy(settings = Settings(1e4f, 0.9f, 0f), saveEvery = 1)
        assertFailsWith<DivergedException> { learn(trainer, batcher, examples, wild, 5, { saved.add(it) }) { true } }
        assertTrue(trainer.state().sameAs(bundle.initialState()))
        assertTrue(saved.isEmpty() || saved.last().steps == 5L && saved.last().state.sameAs(bundle.initialState()))
    }

    @Test
    fun `a disk that is full ends the lesson at what was saved last`(): Unit = Trainer.open(bundle).use { trainer ->
        val saved = ArrayList<PersonalWeights>()
        assertFailsWith<NagEdgeException> {
            learn(trainer, batcher, examples, plan, 0, { if (it.steps > 14) throw NagEdgeException("full") else saved.add(it) }) { true }
        }
        assertTrue(trainer.state().sameAs(saved.last().state))
    }

    @Test
    fun `every epoch has every example once`() {
        val schedule = Schedule(11, 4, 3)
        for (epoch in 0L until 20L) {
            val indices = (0 until 3).flatMap { schedule.indices(epoch * 3 + it) }
            assertEquals((0 until 11).toList(), indices.sorted())
        }
        assertTrue((0L until 20L).map { schedule.indices(it * 3) }.distinct().size > 15, "the order changes")
        assertEquals(listOf(0), Schedule(1, 16, 0).indices(12345))
    }

    @Test
    fun `a fixed batch is filled up with examples that do not count`() {
        val fixed = Golden.bundle("fixed-batch")
        val batch = Batcher(fixed.manifest, fixed.batch).batch(examples.take(2))
        assertEquals(listOf(1f, 1f, 0f, 0f, 0f, 0f), batch.sampleWeight.floats().asList())
        val alone = Trainer.open(fixed).use { it.step(batch, plan.settings).getValue("loss") }
        val free = Trainer.open(bundle).use { it.step(batcher.batch(examples.take(2)), plan.settings).getValue("loss") }
        assertEquals(free, alone, 1e-5f)
    }

    @Test
    fun `steps leave no memory behind`() {
        fun residentKb() = File("/proc/self/status").readLines().first { it.startsWith("VmRSS") }.filter { it.isDigit() }.toLong()
        Trainer.open(bundle).use { trainer ->
            val batch = batcher.batch(examples.take(4))
            repeat(300) { trainer.step(batch, plan.settings) }
            System.gc()
            val before = residentKb()
            repeat(4000) { trainer.step(batch, plan.settings.copy(lr = 0f)) }
            System.gc()
            val grown = residentKb() - before
            val stateKb = bundle.initialState().named().values.sumOf { it.bytes.capacity() } / 1024
            println("4000 steps on a state of $stateKb KB grew the process by $grown KB")
            assertTrue(grown < 1000 * stateKb, "$grown KB for 4000 steps on a state of $stateKb KB")
        }
    }
}
