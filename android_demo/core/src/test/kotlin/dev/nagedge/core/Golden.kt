package dev.nagedge.core

import java.io.File
import kotlin.math.abs
import kotlin.test.assertTrue
import org.junit.Assume.assumeTrue

/** What Python computed: tests/integration/android_golden.py writes it, and the property `nagedge.golden` says where. */
object Golden {
    val folder: File by lazy {
        val given = System.getProperty("nagedge.golden")
        assumeTrue("these tests need -Dnagedge.golden=DIR, see android_demo/README.md", given != null)
        File(given)
    }

    fun bundle(case: String = "folded"): Bundle = Bundle.open(File(folder, "$case/bundle"))

    fun json(name: String): Json = Json.parse(File(folder, name).readText())

    fun tensors(name: String): Map<String, Tensor> = Safetensors.read(File(folder, name)).byName

    fun settings(case: String = "folded"): Settings = json("$case/golden.json")["settings"].let {
        Settings(
            it["lr"].double("lr").toFloat(), it["momentum"].double("momentum").toFloat(),
            it["weight_decay"].double("weight_decay").toFloat(),
        )
    }

    fun batch(case: String, step: Int): Batch {
        val all = tensors("$case/batch-$step.safetensors")
        fun role(prefix: String) = all.filterKeys { it.startsWith(prefix) }.mapKeys { it.key.removePrefix(prefix) }
        return Batch(role("input."), role("target."), all.getValue("sample_weight"))
    }

    /** Examples with the inputs of the first batches and labels of their own. */
    fun examples(bundle: Bundle, count: Int): List<Example> {
        val images = (0 until count).map { batch("folded", it).inputs.getValue("image") }
        return images.mapIndexed { index, image ->
            val row = Tensor.zeros(image.dtype, image.shape.copyOfRange(1, 4))
            val bytes = image.view()
            bytes.limit(row.bytes.capacity())
            row.view().put(bytes)
            Example(mapOf("image" to row), targets(bundle, index))
        }
    }

    fun targets(bundle: Bundle, index: Int): Map<String, FloatArray> = bundle.manifest.tasks.associate { task ->
        task.name to when (task.kind) {
            TaskKind.CLASSIFICATION -> floatArrayOf((index % task.size).toFloat())
            TaskKind.REGRESSION -> floatArrayOf(1f + index * 0.1f)
            else -> FloatArray(task.size) { ((index + it) % 2).toFloat() }
        }
    }

    fun assertClose(found: Tensor, expected: Tensor, tolerance: Float, what: String) {
        assertTrue(found.shape.contentEquals(expected.shape), "$what: ${found.shape.asList()} ${expected.shape.asList()}")
        val (a, b) = found.floats() to expected.floats()
        val worst = a.indices.maxOf { abs(a[it] - b[it]) }
        assertTrue(worst <= tolerance, "$what differs by $worst")
    }

    /** A folder that goes away with the block. */
    fun <T> inFolder(block: (File) -> T): T {
        val folder = File.createTempFile("nagedge", "").also {
            it.delete()
            it.mkdirs()
        }
        try {
            return block(folder)
        } finally {
            folder.deleteRecursively()
        }
    }

    /** A copy of a bundle, to be damaged. */
    fun <T> withCopy(case: String = "folded", block: (File) -> T): T = inFolder { folder ->
        File(this.folder, "$case/bundle").copyRecursively(folder, overwrite = true)
        block(folder)
    }
}
