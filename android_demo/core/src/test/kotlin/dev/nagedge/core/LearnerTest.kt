package dev.nagedge.core

import java.io.ByteArrayOutputStream
import java.io.File
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue
import org.junit.Test

/** What the app does, from the first example to the reset. */
class LearnerTest {
    private val bundle = Golden.bundle()
    private val plan = LessonPlan(steps = 150, batch = 8, settings = Settings(0.02f, 0.9f, 0f))

    private fun Learner.taught(count: Int = 12): Learner = also {
        for (example in Golden.examples(bundle, count)) keep(example.inputs, Golden.targets(bundle, examples.size % 3))
    }

    private fun Map<String, Answer>.digit() = getValue("digit").decision.single().toInt()

    @Test
    fun `it learns a person's examples and says so`(): Unit = Golden.inFolder { folder ->
        Learner(bundle, folder).use { learner ->
            learner.taught()
            assertEquals(12, learner.examples.size)
            assertEquals(3, learner.examples.count { it.held })
            assertTrue(learner.lesson(plan) { true }.finished)
            val digit = learner.compare(held = false).first { it.task.name == "digit" }
            assertEquals(9, digit.after.of)
            assertTrue(digit.after.right!! > digit.before.right!!, "${digit.before.right} ${digit.after.right}")
            assertEquals(9, digit.after.right)
            val slant = learner.compare(held = false).first { it.task.name == "slant" }
            assertTrue(slant.after.off!! < slant.before.off!!)
            assertEquals(3, learner.compare(held = true).first().after.of)
            val first = learner.examples.first()
            assertEquals(first.targets.getValue("digit").single().toInt(), learner.answer(first.inputs).digit())
        }
    }

    @Test
    fun `what was learnt survives the process`(): Unit = Golden.inFolder { folder ->
        val before = Learner(bundle, folder).use { learner ->
            learner.taught().lesson(plan) { true }
            learner.answer(learner.examples.last().inputs)
        }
        Learner(bundle, folder).use { learner ->
            assertEquals(emptyList(), learner.problems)
            assertEquals(150, learner.steps)
            assertEquals(12, learner.examples.size)
            assertEquals(3, learner.examples.count { it.held })
            val after = learner.answer(learner.examples.last().inputs)
            for ((task, answer) in before) assertEquals(answer.shown.asList(), after.getValue(task).shown.asList())
        }
    }

    @Test
    fun `the reset gives the exported model back`(): Unit = Golden.inFolder { folder ->
        Learner(bundle, folder).use { learner ->
            learner.taught()
            val inputs = learner.examples.first().inputs
            val factory = learner.answer(inputs).getValue("digit").shown.asList()
            learner.lesson(plan) { true }
            assertTrue(factory != learner.answer(inputs).getValue("digit").shown.asList())
            assertEquals(factory, learner.answer(inputs, exported = true).getValue("digit").shown.asList())
            learner.reset(forgetExamples = false)
            assertEquals(factory, learner.answer(inputs).getValue("digit").shown.asList())
            assertEquals(12, learner.examples.size)
            assertEquals(0, learner.steps)
            learner.reset(forgetExamples = true)
            assertEquals(0, learner.examples.size)
            assertEquals(emptyList(), folder.list()!!.asList())
        }
    }

    @Test
    fun `weights move to another device, and strangers are refused`(): Unit = Golden.inFolder { folder ->
        val file = ByteArrayOutputStream()
        val learnt = Learner(bundle, File(folder, "a")).use { learner ->
            learner.taught().lesson(plan) { true }
            learner.exportTo(file)
            learner.answer(learner.examples.first().inputs).getValue("digit").shown.asList()
        }
        Learner(bundle, File(folder, "b")).use { learner ->
            learner.importFrom(file.toByteArray().inputStream())
            assertEquals(150, learner.steps)
            assertEquals(learnt, learner.answer(Golden.examples(bundle, 1)[0].inputs).getValue("digit").shown.asList())
            val damaged = file.toByteArray().also { it[it.size - 1] = (it.last().toInt() xor 64).toByte() }
            assertContains(assertFailsWith<WeightsException> { learner.importFrom(damaged.inputStream()) }.message!!, "SHA-256")
            assertEquals(150, learner.steps)
        }
        Learner(Golden.bundle("heads"), File(folder, "c")).use { learner ->
            assertFailsWith<WeightsException> { learner.importFrom(file.toByteArray().inputStream()) }
        }
    }

    @Test
    fun `files that cannot be read are set aside and told`(): Unit = Golden.inFolder { folder ->
        Learner(bundle, folder).use { it.taught().lesson(plan) { true } }
        File(folder, "personal.safetensors").writeBytes(byteArrayOf(1, 2, 3))
        Learner(bundle, folder).use { learner ->
            assertEquals(1, learner.problems.size)
            assertEquals(0, learner.steps)
            assertEquals(12, learner.examples.size)
        }
        assertTrue(File(folder, "personal.safetensors.unreadable").exists())
    }

    @Test
    fun `examples of another export are not learnt from`(): Unit = Golden.inFolder { folder ->
        Learner(bundle, folder).use { it.taught() }
        Learner(Golden.bundle("heads"), folder).use { learner ->
            assertEquals(0, learner.examples.size)
            assertContains(learner.problems.single(), "another export")
        }
    }

    @Test
    fun `a lesson without examples is refused`(): Unit = Golden.inFolder { folder ->
        Learner(bundle, folder).use { learner ->
            assertFailsWith<NagEdgeException> { learner.lesson(plan) { true } }
        }
    }

    @Test
    fun `the example kept last can be forgotten`(): Unit = Golden.inFolder { folder ->
        Learner(bundle, folder).use { learner ->
            learner.taught(2).forgetLast()
            assertEquals(1, learner.examples.size)
        }
        Learner(bundle, folder).use { assertEquals(1, it.examples.size) }
    }

    @Test
    fun `a fixed batch size works throughout`(): Unit = Golden.inFolder { folder ->
        Learner(Golden.bundle("fixed-batch"), folder).use { learner ->
            learner.taught(8).lesson(plan) { true }
            assertEquals(8, learner.compare(held = false).first().after.of)
        }
    }
}
