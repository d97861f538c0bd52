package dev.nagedge.core

import java.nio.ByteBuffer
import java.nio.ByteOrder

/**
 * New values for the initializers of an ONNX model, written over the old ones: same name, type and size.
 *
 * ONNX Runtime would take new values when a session is made (`addInitializer`), but at its default optimisation level it
 * has re-blocked the weights of convolutions by then, and silently keeps those of the file.
 *
 * A model is a protocol buffer (onnx.proto): ModelProto.graph is field 7, GraphProto.initializer field 5, and of a
 * TensorProto the name is field 8 and the numbers field 9 (raw_data) or 4 (float_data, packed), both little-endian.
 * Because no length changes, nothing else in the file has to.
 */
object OnnxParameters {
    private const val GRAPH = 7
    private const val INITIALIZER = 5
    private const val NAME = 8
    private const val FLOAT_DATA = 4
    private const val RAW_DATA = 9

    /**
     * @param parameters by name; names that the model does not have are ignored.
     * @return a copy of the model with these values.
     * @throws BundleException a tensor has another size in the model, or keeps its numbers elsewhere.
     */
    fun replaced(model: ByteArray, parameters: Map<String, Tensor>): ByteArray {
        val copy = model.copyOf()
        for (graph in fields(copy, 0, copy.size, GRAPH)) {
            for (initializer in fields(copy, graph.first, graph.last + 1, INITIALIZER)) {
                val place = { number: Int -> fields(copy, initializer.first, initializer.last + 1, number) }
                val name = place(NAME).firstOrNull()?.let { String(copy, it.first, it.count(), Charsets.UTF_8) } ?: continue
                val value = parameters[name] ?: continue
                val packed = if (value.dtype == Dtype.FLOAT32) place(FLOAT_DATA) else emptyList()
                val places = place(RAW_DATA) + packed
                val bytes = value.bytes.capacity()
                if (places.size != 1 || places[0].count() != bytes) {
                    val found = places.joinToString(" + ") { "${it.count()}" }.ifEmpty { "no" }
                    throw BundleException("the model holds $found bytes for $name, its new values have $bytes. Export again.")
                }
                littleEndian(value).get(copy, places[0].first, bytes)
            }
        }
        return copy
    }

    private fun littleEndian(value: Tensor): ByteBuffer {
        check(ByteOrder.nativeOrder() == ByteOrder.LITTLE_ENDIAN) { "this machine is big-endian" }
        return value.view()
    }

    /** Where the content of every length-delimited field of that number lies, within `[begin, end)`. */
    private fun fields(bytes: ByteArray, begin: Int, end: Int, number: Int): List<IntRange> {
        val found = ArrayList<IntRange>()
        var at = begin
        fun varint(): Long {
            var value = 0L
            var shift = 0
            while (at < end && shift < 64) {
                val byte = bytes[at++].toInt()
                value = value or ((byte and 127).toLong() shl shift)
                if (byte >= 0) return value
                shift += 7
            }
            throw BundleException("the model is no ONNX file, or it is truncated")
        }
        while (at < end) {
            val key = varint()
            when ((key and 7).toInt()) {
                0 -> varint()
                1 -> at += 8
                5 -> at += 4
                2 -> {
                    val length = varint()
                    if (length < 0 || length > end - at) throw BundleException("the model is no ONNX file, or it is truncated")
                    if (key ushr 3 == number.toLong()) found.add(at until at + length.toInt())
                    at += length.toInt()
                }
                else -> throw BundleException("the model is no ONNX file")
            }
        }
        return found
    }
}
