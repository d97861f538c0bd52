package dev.nagedge.core

import java.io.File
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import org.junit.Test

/** What is damaged, foreign or too new is refused with a text that says what it is. */
class BundleTest {
    private fun refused(expected: String, damage: (File) -> Unit) = Golden.withCopy { folder ->
        damage(folder)
        val error = assertFailsWith<BundleException> { Bundle.open(folder) }
        assertContains(error.message!!, expected)
    }

    private fun edited(from: String, to: String): (File) -> Unit = { folder ->
        val manifest = File(folder, "manifest.json")
        val text = manifest.readText()
        check(from in text)
        manifest.writeText(text.replace(from, to))
    }

    @Test
    fun `a changed byte in any file that is needed`() {
        for (name in listOf("params.safetensors", "momentum.safetensors", INFER, TRAIN_STEP)) {
            refused("was changed") { folder ->
                val file = File(folder, name)
                val bytes = file.readBytes()
                bytes[bytes.size / 2] = (bytes[bytes.size / 2].toInt() xor 1).toByte()
                file.writeBytes(bytes)
            }
        }
    }

    @Test
    fun `a truncated file`(): Unit = refused("truncated") { folder ->
        val file = File(folder, TRAIN_STEP)
        file.writeBytes(file.readBytes().copyOf(100))
    }

    @Test
    fun `a missing file`(): Unit = refused("missing") { folder -> File(folder, "params.safetensors").delete() }

    @Test
    fun `a link in place of a file`(): Unit = refused("link") { folder ->
        val (file, elsewhere) = File(folder, "params.safetensors") to File(folder, "elsewhere")
        file.renameTo(elsewhere)
        java.nio.file.Files.createSymbolicLink(file.toPath(), elsewhere.toPath())
    }

    @Test
    fun `a name that leads out of the bundle`(): Unit = refused("lead out", edited("\"forward.json\":", "\"../forward.json\":"))

    @Test
    fun `a newer schema`(): Unit = refused("schema version 2", edited("\"schema_version\": 1", "\"schema_version\": 2"))

    @Test
    fun `another format`(): Unit = refused("lacks \"format\"", edited("nagedge-bundle", "other-bundle"))

    @Test
    fun `a task kind of the future`(): Unit = refused("kind segmentation", edited("\"kind\": \"binary\"", "\"kind\": \"segmentation\""))

    @Test
    fun `a manifest that is cut off`(): Unit = refused("damaged") { folder ->
        val manifest = File(folder, "manifest.json")
        manifest.writeBytes(manifest.readBytes().copyOf(500))
    }

    @Test
    fun `no training step`(): Unit = refused("no training step for ONNX Runtime", edited("\"train_step\":", "\"other\":"))

    @Test
    fun `nothing there`() {
        assertContains(assertFailsWith<BundleException> { Bundle.open(File("/nowhere")) }.message!!, "holds no bundle")
    }

    @Test
    fun `files that this target does not need may be absent`(): Unit = Golden.withCopy { folder ->
        File(folder, "forward.json").delete()
        Bundle.open(folder).hash
    }

    @Test
    fun `a bundle is installed from a stream, once`(): Unit = Golden.inFolder { into ->
        val source = Golden.bundle().folder
        val opened = ArrayList<String>()
        fun install() = installBundle({ name -> File(source, name).also { opened.add(name) }.inputStream() }, into)
        assertEquals(Golden.bundle().hash, install().hash)
        assertEquals(5, opened.size, "only what the target needs: $opened")
        opened.clear()
        val installed = install()
        assertEquals(listOf("manifest.json"), opened)
        File(installed.folder, TRAIN_STEP).writeText("damaged")
        opened.clear()
        assertEquals(installed.hash, install().hash)
        assertEquals(5, opened.size, "a damaged copy is made again")
        val other = Golden.bundle("heads").folder
        installBundle({ File(other, it).inputStream() }, into)
        assertEquals(1, into.list()!!.size, "older exports are removed")
    }

    @Test
    fun `a damaged bundle is not installed`(): Unit = Golden.withCopy { source ->
        File(source, TRAIN_STEP).appendText("x")
        Golden.inFolder { into ->
            assertFailsWith<BundleException> { installBundle({ File(source, it).inputStream() }, into) }
            assertEquals(emptyList(), into.list()!!.filter { !it.endsWith(".part") })
        }
    }

    private companion object {
        const val TARGET = "targets/any-any-onnxruntime-fp32-train"
        const val INFER = "$TARGET/infer.onnx"
        const val TRAIN_STEP = "$TARGET/train_step.onnx"
    }
}
