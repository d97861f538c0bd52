package dev.nagedge.core

import java.io.File
import java.io.OutputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.charset.CodingErrorAction

/** The content of a safetensors file: tensors by name, and the text that its writer added. */
class Tensors(val byName: Map<String, Tensor>, val metadata: Map<String, String> = emptyMap())

/**
 * The format safetensors: eight bytes of little-endian header length, a JSON header, then the raw little-endian numbers.
 *
 * Nothing that a header says is believed: offsets must follow each other without gap or overlap to the end of the file,
 * and every one must fit its shape.
 */
object Safetensors {
    private const val METADATA = "__metadata__"
    private const val LARGEST_HEADER = 100L shl 20

    /** @throws NagEdgeException for a file that is not one, is truncated or damaged, or has types that are not known. */
    fun read(file: File): Tensors {
        val what = file.name
        if (file.length() > Int.MAX_VALUE) throw NagEdgeException("$what: ${file.length()} bytes are too many")
        return parse(ByteBuffer.wrap(file.readBytes()), what)
    }

    /** The same of bytes in memory. */
    fun parse(bytes: ByteBuffer, what: String): Tensors {
        val all = bytes.duplicate().order(ByteOrder.LITTLE_ENDIAN)
        val header = headerOf(all, what)
        val begin = 8 + header.length
        val available = (all.limit() - begin).toLong()
        val metadata = header.json[METADATA].optional { it.members(what).mapValues { (_, text) -> text.text(what) } }
        val entries = header.json.members(what).filterKeys { it != METADATA }.map { (name, json) -> Entry(name, json, what) }
        var expected = 0L
        for (entry in entries.sortedWith(compareBy({ it.begin }, { it.end }))) {
            if (entry.begin != expected) throw NagEdgeException("$what: tensor ${entry.name} overlaps another, or leaves a gap")
            expected = entry.end
        }
        if (expected != available) {
            throw NagEdgeException(
                "$what holds $available bytes of numbers, its header says $expected: it is truncated or damaged",
            )
        }
        val tensors = entries.associate { entry ->
            val tensor = Tensor.zeros(entry.dtype, entry.shape)
            val source = all.duplicate().order(ByteOrder.LITTLE_ENDIAN)
            source.position(begin + entry.begin.toInt()).limit(begin + entry.end.toInt())
            tensor.view().put(source)
            entry.name to tensor
        }
        return Tensors(tensors, metadata.orEmpty())
    }

    /** The bytes of a file; equal tensors and metadata in equal order give equal bytes. */
    fun write(tensors: Tensors, out: OutputStream) {
        val header = LinkedHashMap<String, Json>()
        if (tensors.metadata.isNotEmpty()) header[METADATA] = Json.of(tensors.metadata)
        var offset = 0L
        for ((name, tensor) in tensors.byName) {
            val end = offset + tensor.bytes.capacity()
            header[name] = Json.of(
                mapOf(
                    "dtype" to tensor.dtype.safetensors,
                    "shape" to tensor.shape.asList(),
                    "data_offsets" to listOf(offset, end),
                ),
            )
            offset = end
        }
        var text = Json.Object(header).toString().toByteArray()
        text += ByteArray(-text.size and 7) { ' '.code.toByte() } // the numbers start at a multiple of 8
        out.write(ByteBuffer.allocate(8).order(ByteOrder.LITTLE_ENDIAN).putLong(text.size.toLong()).array())
        out.write(text)
        val chunk = ByteArray(1 shl 16)
        for (tensor in tensors.byName.values) {
            val bytes = tensor.view()
            while (bytes.hasRemaining()) {
                val count = minOf(chunk.size, bytes.remaining())
                bytes.get(chunk, 0, count)
                out.write(chunk, 0, count)
            }
        }
    }

    private class Header(val json: Json, val length: Int)

    private fun headerOf(all: ByteBuffer, what: String): Header {
        val length = if (all.limit() < 8) -1L else all.getLong(0)
        if (length < 2 || length > LARGEST_HEADER || length > all.limit() - 8) {
            throw NagEdgeException("$what is no safetensors file, or it is truncated")
        }
        val text = all.duplicate()
        text.position(8).limit(8 + length.toInt())
        val decoder = Charsets.UTF_8.newDecoder().onMalformedInput(CodingErrorAction.REPORT)
        val json = try {
            Json.parse(decoder.decode(text).toString())
        } catch (error: java.nio.charset.CharacterCodingException) {
            throw NagEdgeException("$what is no safetensors file: its header is not UTF-8", error)
        }
        return Header(json, length.toInt())
    }

    private class Entry(val name: String, json: Json, what: String) {
        val dtype: Dtype = json["dtype"].text("$what, $name").let {
            Dtype.ofSafetensors(it) ?: throw NagEdgeException("$what: tensor $name has type $it, which is not known here")
        }
        val shape: LongArray = json["shape"].items("$what, $name").map { it.long("$what, $name") }.toLongArray()
        val begin: Long
        val end: Long

        init {
            val offsets = json["data_offsets"].items("$what, $name").map { it.long("$what, $name") }
            if (offsets.size != 2) throw NagEdgeException("$what: tensor $name has ${offsets.size} offsets, expected 2")
            begin = offsets[0]
            end = offsets[1]
            val size = try {
                Math.multiplyExact(Tensor.sizeOf(shape), dtype.sizeBytes).toLong()
            } catch (error: RuntimeException) {
                throw NagEdgeException("$what: tensor $name has the shape ${shape.contentToString()}, which cannot be", error)
            }
            if (begin < 0 || end - begin != size) {
                throw NagEdgeException("$what: tensor $name has ${end - begin} bytes, its shape says $size")
            }
        }
    }
}
