package dev.nagedge.core

import java.nio.ByteBuffer
import java.nio.ByteOrder

/** A type of numbers with its names: numpy's, which manifests use, and that of safetensors. */
enum class Dtype(val numpy: String, val safetensors: String, val sizeBytes: Int) {
    FLOAT32("float32", "F32", 4),
    INT64("int64", "I64", 8),
    INT32("int32", "I32", 4),
    UINT8("uint8", "U8", 1),
    BOOL("bool", "BOOL", 1);

    companion object {
        fun ofNumpy(name: String): Dtype? = values().firstOrNull { it.numpy == name }

        fun ofSafetensors(name: String): Dtype? = values().firstOrNull { it.safetensors == name }
    }
}

/**
 * Numbers in row-major order.
 *
 * @property shape sizes, outermost first; empty for a scalar.
 * @property bytes the numbers in the machine's byte order, which is little-endian on Android; a direct buffer, so that
 *   ONNX Runtime reads and writes it without a copy. Its position is 0 and its limit its capacity.
 */
class Tensor(val dtype: Dtype, shape: LongArray, val bytes: ByteBuffer) {
    val shape: LongArray = shape.copyOf()
    val size: Int = sizeOf(shape)

    init {
        require(bytes.isDirect && bytes.order() == ByteOrder.nativeOrder()) { "expected a direct buffer of native order" }
        require(bytes.capacity() == size * dtype.sizeBytes) {
            "${bytes.capacity()} bytes do not fit ${dtype.numpy} ${shape.contentToString()}"
        }
    }

    /** The numbers as floats; only of a float32 tensor. */
    fun floats(): FloatArray {
        check(dtype == Dtype.FLOAT32)
        return FloatArray(size).also { view().asFloatBuffer().get(it) }
    }

    /** A buffer of its own over the same bytes, from their beginning to their end. */
    fun view(): ByteBuffer = bytes.duplicate().order(ByteOrder.nativeOrder()).also { it.clear() }

    fun copy(): Tensor = zeros(dtype, shape).also { it.view().put(view()) }

    /** Whether no number is NaN or infinite; a sum over them, because this runs over every weight. */
    fun isFinite(): Boolean = dtype != Dtype.FLOAT32 || floats().all { it - it == 0f }

    /** Whether type, shape and every bit are equal. */
    fun sameAs(other: Tensor): Boolean =
        dtype == other.dtype && shape.contentEquals(other.shape) && view() == other.view()

    companion object {
        fun zeros(dtype: Dtype, shape: LongArray): Tensor {
            val bytes = ByteBuffer.allocateDirect(Math.multiplyExact(sizeOf(shape), dtype.sizeBytes))
            return Tensor(dtype, shape, bytes.order(ByteOrder.nativeOrder()))
        }

        fun of(values: FloatArray, vararg shape: Long): Tensor =
            zeros(Dtype.FLOAT32, shape).also { it.view().asFloatBuffer().put(values) }

        fun of(values: LongArray, vararg shape: Long): Tensor =
            zeros(Dtype.INT64, shape).also { it.view().asLongBuffer().put(values) }

        /** Join tensors of one type and shape to one with a new outermost axis; at least one. */
        fun stack(rows: List<Tensor>): Tensor {
            val first = rows.first()
            val joined = zeros(first.dtype, longArrayOf(rows.size.toLong()) + first.shape)
            val into = joined.view()
            for (row in rows) {
                require(row.dtype == first.dtype && row.shape.contentEquals(first.shape)) { "rows of different shapes" }
                into.put(row.view())
            }
            return joined
        }

        /** The count of numbers of a shape. */
        fun sizeOf(shape: LongArray): Int {
            var size = 1L
            for (axis in shape) {
                require(axis >= 0) { "a negative size in ${shape.contentToString()}" }
                size = Math.multiplyExact(size, axis)
            }
            return Math.toIntExact(size)
        }
    }
}
