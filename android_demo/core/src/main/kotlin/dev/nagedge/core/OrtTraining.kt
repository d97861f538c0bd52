package dev.nagedge.core

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtTrainingSession
import java.io.File

/**
 * Training with ONNX Runtime's own on-device training: the artifacts of a bundle's `ort_training` target, whose optimizer
 * model is NagEdge's Nesterov step.
 *
 * Only a build of the runtime that was made for training can open it, which the stock packages are not and which is no
 * longer made (1.19 is the last). [Trainer] needs none and is what the app uses.
 */
class OrtTraining private constructor(private val session: OrtTrainingSession, private val manifest: Manifest) : AutoCloseable {
    /** One step. @return the first output of the training model: the loss before the step. */
    fun step(batch: Batch, lr: Float): Float = try {
        session.setLearningRate(lr)
        val fed = batch.inputs + manifest.tasks.associate { "target.${it.name}" to batch.targets.getValue(it.name) } +
            mapOf("sample_weight" to batch.sampleWeight)
        val loss = Views(fed.filterKeys { it in session.trainInputNames }).use { views ->
            session.trainStep(views.byName).use { Runtime.copy(it.get(0) as OnnxTensor).floats().single() }
        }
        session.optimizerStep()
        session.lazyResetGrad()
        loss
    } catch (error: OrtException) {
        throw NagEdgeException("the training step failed: ${error.message}", error)
    }

    override fun close() = session.close()

    companion object {
        private const val BACKEND = "ort_training"

        /** Whether the runtime at hand was built for training. */
        val isAvailable: Boolean get() = Runtime.environment.isTrainingEnabled

        /** @throws NagEdgeException the runtime cannot train by itself, or the bundle has no such target. */
        fun open(folder: File, threads: Int = 1): OrtTraining {
            val manifest = Bundle.manifestOf(folder)
            val target = manifest.targets.values.firstOrNull { it.backend == BACKEND && "optimizer_model" in it.artifacts }
                ?: throw BundleException("${folder.name} has no target of the backend $BACKEND; Trainer needs none")
            if (!isAvailable) {
                throw NagEdgeException(
                    "ONNX Runtime ${Runtime.environment.version} was built without on-device training. Use Trainer, which " +
                        "runs train_step.onnx on the stock runtime, or put the training package 1.19.2 into the app.",
                )
            }
            fun path(role: String): String {
                val name = target.artifacts[role] ?: throw BundleException("target ${target.name} has no $role")
                val entry = manifest.files[name] ?: throw BundleException("the manifest lists no file $name")
                Bundle.checkName(name)
                val file = File(folder, name)
                if (!file.isFile || sha256Of(file) != entry.sha256) throw BundleException("$name is missing or was changed")
                return file.path
            }
            try {
                val session = Runtime.options(threads).use {
                    Runtime.environment.createTrainingSession(
                        path("checkpoint"), path("train_step"), path("eval_model"), path("optimizer_model"), it,
                    )
                }
                return OrtTraining(session, manifest)
            } catch (error: OrtException) {
                throw BundleException("ONNX Runtime refuses the training artifacts: ${error.message}", error)
            }
        }
    }
}
