package dev.nagedge.core

import java.io.File
import java.util.SplittableRandom
import java.util.concurrent.TimeUnit
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertNull
import kotlin.test.assertTrue
import org.junit.Test

class WeightStoreTest {
    private val bundle = Golden.bundle()

    private fun <T> saved(block: (WeightStore) -> T): T = Golden.inFolder { folder ->
        val store = WeightStore(File(folder, "personal.safetensors"), bundle)
        store.save(PersonalWeights(bundle.initialState(), 7))
        block(store)
    }

    @Test
    fun `parameters, momentum, steps and the bundle's hash come back`(): Unit = saved { store ->
        val found = store.load()!!
        assertEquals(7, found.steps)
        assertTrue(found.state.sameAs(bundle.initialState()))
        assertEquals(bundle.hash, Safetensors.read(store.file).metadata["bundle"])
    }

    @Test
    fun `nothing was saved yet`(): Unit = Golden.inFolder { folder -> assertNull(WeightStore(File(folder, "none"), bundle).load()) }

    @Test
    fun `another export's weights are refused`(): Unit = saved { store ->
        val other = WeightStore(store.file, Golden.bundle("heads"))
        assertContains(assertFailsWith<WeightsException> { other.load() }.message!!, "another export")
    }

    @Test
    fun `every kind of damage is refused`(): Unit = saved { store ->
        val whole = store.file.readBytes()
        val random = SplittableRandom(0)
        repeat(200) {
            val damaged = whole.copyOf()
            val at = random.nextInt(damaged.size)
            damaged[at] = (damaged[at].toInt() xor (1 shl random.nextInt(8))).toByte()
            store.file.writeBytes(damaged)
            try {
                val found = store.load()!!
                // A bit in the name of the model or in the count of steps is no damage of the weights.
                assertTrue(found.state.sameAs(bundle.initialState()))
            } catch (error: WeightsException) {
                assertTrue(error.message!!.isNotEmpty())
            }
        }
        for (length in listOf(0, 7, 100, whole.size / 2, whole.size - 1)) {
            store.file.writeBytes(whole.copyOf(length))
            assertFailsWith<WeightsException> { store.load() }
        }
    }

    @Test
    fun `numbers that are not finite are refused`(): Unit = Golden.inFolder { folder ->
        val store = WeightStore(File(folder, "personal"), bundle)
        val state = bundle.initialState()
        state.params.values.first().view().asFloatBuffer().put(0, Float.NaN)
        store.save(PersonalWeights(state, 1))
        assertContains(assertFailsWith<WeightsException> { store.load() }.message!!, "not finite")
    }

    @Test
    fun `a process that is killed while it saves leaves the old file or the new one`(): Unit = Golden.inFolder { folder ->
        val file = File(folder, "personal.safetensors")
        val said = File(folder, "said")
        val random = SplittableRandom(0)
        var found = -1L
        var interrupted = 0
        repeat(6) {
            val process = ProcessBuilder(
                File(System.getProperty("java.home"), "bin/java").path, "-cp", System.getProperty("java.class.path"),
                "-Dnagedge.golden=${Golden.folder}", "dev.nagedge.core.SaveForever", file.path, "${found + 1}",
            ).redirectErrorStream(true).redirectOutput(said).start()
            fun lines() = said.readLines().filter { it.startsWith("saved ") }
            while (lines().size < 5) assertTrue(!process.waitFor(5, TimeUnit.MILLISECONDS), said.readText())
            Thread.sleep(0, random.nextInt(900_000))
            process.destroyForcibly()
            assertTrue(process.waitFor(10, TimeUnit.SECONDS))
            val last = lines().dropLast(1).last().removePrefix("saved ").toLong() // the last line may be cut off
            val weights = WeightStore(file, bundle).load()!!
            if (File(file.path + ".part").exists()) interrupted++
            assertTrue(weights.steps >= last, "${weights.steps} is older than what was said to be saved: $last")
            for ((name, tensor) in weights.state.named()) {
                assertTrue(tensor.floats().all { it == weights.steps.toFloat() }, "$name is not of step ${weights.steps}")
            }
            found = weights.steps
        }
        println("killed 6 times while saving, $interrupted times in the middle of a file; ${found + 1} states were saved")
    }
}

/** Saves one state after the other, each filled with its number, until it is killed. */
object SaveForever {
    @JvmStatic
    fun main(arguments: Array<String>) {
        val bundle = Golden.bundle()
        val store = WeightStore(File(arguments[0]), bundle)
        var step = arguments[1].toLong()
        while (true) {
            val filled = bundle.initialState().named().mapValues { (_, tensor) ->
                Tensor.of(FloatArray(tensor.size) { step.toFloat() }, *tensor.shape)
            }
            store.save(PersonalWeights(TrainingState.ofNamed(filled), step))
            println("saved $step")
            step++
        }
    }
}
