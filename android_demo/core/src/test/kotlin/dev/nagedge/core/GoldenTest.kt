package dev.nagedge.core

import kotlin.math.abs
import kotlin.test.assertEquals
import kotlin.test.assertTrue
import org.junit.Test

/** The same losses, states and predictions as Python's ONNX Runtime, 50 steps long. */
class GoldenTest {
    @Test
    fun `everything learns`(): Unit = matches("folded")

    @Test
    fun `BatchNorm learns, its statistics are state`(): Unit = matches("norm-learns")

    @Test
    fun `a fixed batch size`(): Unit = matches("fixed-batch")

    @Test
    fun `heads only`(): Unit = matches("heads")

    @Test
    fun `the runtime is the pinned one`() {
        assertEquals(System.getProperty("nagedge.ort"), Runtime.environment.version)
    }

    @Test
    fun `the hash of a bundle is the one that Python computes`() {
        assertEquals(Golden.json("folded/golden.json")["hash"].text("hash"), Golden.bundle().hash)
    }

    private fun matches(case: String) {
        val bundle = Golden.bundle(case)
        val expected = Golden.json("$case/golden.json")["losses"].items("losses")
        assertEquals(50, expected.size)
        Trainer.open(bundle).use { trainer ->
            var worst = 0.0
            expected.forEachIndexed { step, losses ->
                val found = trainer.step(Golden.batch(case, step), Golden.settings(case))
                assertEquals(losses.members().keys, found.keys)
                for ((name, loss) in losses.members()) worst = maxOf(worst, abs(found.getValue(name) - loss.double(name)))
            }
            println("$case: the largest difference of a loss from Python's over ${expected.size} steps is $worst")
            assertTrue(worst <= 1e-6, "a loss differs by $worst")
            val state = trainer.state()
            val named = Golden.tensors("$case/state.safetensors")
            assertEquals(named.keys, state.named().keys)
            for ((name, tensor) in named) Golden.assertClose(state.named().getValue(name), tensor, 1e-5f, name)

            val inputs = Golden.batch(case, 0).inputs
            val before = Predictor.open(bundle).use { it.predict(inputs) }
            val after = Predictor.open(bundle, state.learnt()).use { it.predict(inputs) }
            for ((name, tensor) in Golden.tensors("$case/before.safetensors")) {
                Golden.assertClose(before.getValue(name), tensor, 1e-5f, "$name before")
            }
            for ((name, tensor) in Golden.tensors("$case/after.safetensors")) {
                Golden.assertClose(after.getValue(name), tensor, 1e-4f, "$name after")
                assertTrue(!after.getValue(name).sameAs(before.getValue(name)), "$name did not change by learning")
            }
        }
    }
}
