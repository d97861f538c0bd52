package dev.nagedge.core

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtLoggingLevel
import ai.onnxruntime.OrtSession
import ai.onnxruntime.TensorInfo
import java.nio.ByteOrder

/** The stock ONNX Runtime, as both sessions use it. */
internal object Runtime {
    val environment: OrtEnvironment get() = OrtEnvironment.getEnvironment(OrtLoggingLevel.ORT_LOGGING_LEVEL_ERROR, "nagedge")

    /** @param planned whether the runtime plans one block of memory from the second run on; see docs/guides/speed.md. */
    fun session(model: ByteArray, threads: Int, what: String, planned: Boolean = true): OrtSession = try {
        options(threads).use { options ->
            options.setMemoryPatternOptimization(planned)
            environment.createSession(model, options)
        }
    } catch (error: OrtException) {
        throw BundleException("ONNX Runtime ${environment.version} refuses $what: ${error.message}", error)
    }

    fun options(threads: Int): OrtSession.SessionOptions {
        require(threads >= 1) { "threads is $threads, expected 1 or more" }
        return OrtSession.SessionOptions().apply {
            setIntraOpNumThreads(threads)
            setInterOpNumThreads(1)
            // Gradients of saturated activations become denormal floats, which are many times slower.
            addConfigEntry("session.set_denormal_as_zero", "1")
        }
    }

    /** A view of the tensor's own bytes: nothing is copied, and whoever closes it does not free them. */
    fun view(tensor: Tensor): OnnxTensor =
        OnnxTensor.createTensor(environment, tensor.view(), tensor.shape, TYPES.getValue(tensor.dtype))

    /** A copy of an output. */
    fun copy(output: OnnxTensor): Tensor {
        val info: TensorInfo = output.info
        val dtype = TYPES.entries.firstOrNull { it.value == info.type }?.key
            ?: throw BundleException("an output has type ${info.type}, for which this program has none")
        val copy = Tensor.zeros(dtype, info.shape)
        copy.view().put(output.byteBuffer.order(ByteOrder.nativeOrder()))
        return copy
    }

    private val TYPES = mapOf(
        Dtype.FLOAT32 to OnnxJavaType.FLOAT,
        Dtype.INT64 to OnnxJavaType.INT64,
        Dtype.INT32 to OnnxJavaType.INT32,
        Dtype.UINT8 to OnnxJavaType.UINT8,
        Dtype.BOOL to OnnxJavaType.BOOL,
    )
}

/** Views of some tensors that are closed together, whatever goes wrong in between. */
internal class Views(tensors: Map<String, Tensor>) : AutoCloseable {
    val byName = LinkedHashMap<String, OnnxTensor>()

    init {
        try {
            for ((name, tensor) in tensors) byName[name] = Runtime.view(tensor)
        } catch (error: Throwable) {
            close()
            throw error
        }
    }

    override fun close() = byName.values.forEach { it.close() }
}
