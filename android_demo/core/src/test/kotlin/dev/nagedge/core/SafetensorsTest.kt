package dev.nagedge.core

import java.io.ByteArrayOutputStream
import java.io.File
import java.nio.ByteBuffer
import java.util.SplittableRandom
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue
import org.junit.Test

class SafetensorsTest {
    private fun bytesOf(tensors: Tensors) = ByteArrayOutputStream().also { Safetensors.write(tensors, it) }.toByteArray()

    private val some = Tensors(
        mapOf(
            "weight" to Tensor.of(floatArrayOf(1f, -2f, Float.MIN_VALUE, 3f, 4f, 5f), 2, 3),
            "ids" to Tensor.of(longArrayOf(-1, 1L shl 40), 2),
            "scalar" to Tensor.of(floatArrayOf(0.5f)),
            "none" to Tensor.of(floatArrayOf(), 0, 3),
        ),
        mapOf("who" to "a \"test\"\n"),
    )

    @Test
    fun `what is written is read`() {
        val read = Safetensors.parse(ByteBuffer.wrap(bytesOf(some)), "it")
        assertEquals(some.metadata, read.metadata)
        assertEquals(some.byName.keys, read.byName.keys)
        for ((name, tensor) in some.byName) assertTrue(tensor.sameAs(read.byName.getValue(name)), name)
        assertContentEquals(bytesOf(some), bytesOf(read))
    }

    @Test
    fun `python's files are read`() {
        assertEquals(4, Golden.tensors("folded/before.safetensors").size)
    }

    @Test
    fun `every truncation is refused`() {
        val whole = bytesOf(some)
        for (length in whole.indices) {
            assertFailsWith<NagEdgeException>("$length bytes") { Safetensors.parse(ByteBuffer.wrap(whole, 0, length).slice(), "it") }
        }
    }

    @Test
    fun `damage is refused or harmless, and never another error`() {
        val whole = bytesOf(some)
        val random = SplittableRandom(0)
        var refused = 0
        repeat(5000) {
            val damaged = whole.copyOf()
            damaged[random.nextInt(damaged.size)] = random.nextInt(256).toByte()
            try {
                Safetensors.parse(ByteBuffer.wrap(damaged), "it")
            } catch (error: NagEdgeException) {
                refused++
            }
        }
        assertTrue(refused > 1000, "$refused")
    }

    @Test
    fun `overlaps, gaps and sizes that overflow are refused`() {
        fun file(header: String, numbers: Int): ByteBuffer {
            val text = header.toByteArray()
            return ByteBuffer.allocate(8 + text.size + numbers).order(java.nio.ByteOrder.LITTLE_ENDIAN)
                .also { it.putLong(text.size.toLong()).put(text).position(0) }
        }
        fun entry(shape: String, begin: Long, end: Long) = """{"dtype":"F32","shape":$shape,"data_offsets":[$begin,$end]}"""
        for ((header, numbers) in listOf(
            """{"a":${entry("[1]", 0, 4)},"b":${entry("[1]", 0, 4)}}""" to 4,
            """{"a":${entry("[1]", 0, 4)},"b":${entry("[1]", 8, 12)}}""" to 12,
            """{"a":${entry("[4294967296,4294967296]", 0, 0)}}""" to 0,
            """{"a":${entry("[-1]", 0, -4)}}""" to 0,
            """{"a":${entry("[1]", 0, 4)},"a":${entry("[1]", 0, 4)}}""" to 4,
            """{"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}""" to 2,
        )) {
            assertFailsWith<NagEdgeException>(header) { Safetensors.parse(file(header, numbers), "it") }
        }
    }

    @Test
    fun `a file that cannot be written leaves the old one`(): Unit = Golden.inFolder { folder ->
        val file = File(folder, "state")
        writeAtomically(file) { it.write(1) }
        assertFailsWith<IllegalStateException> {
            writeAtomically(file) {
                it.write(2)
                error("stopped")
            }
        }
        assertContentEquals(byteArrayOf(1), file.readBytes())
        assertEquals(listOf("state"), folder.list()!!.asList())
    }
}
