package dev.nagedge.core

import java.text.SimpleDateFormat
import java.util.Date
import java.util.Locale
import java.util.SplittableRandom

/** The machine a benchmark runs on; null where it does not tell. The fields of a profile's `host`. */
data class Machine(
    val cpuModel: String,
    val architecture: String,
    val logicalCores: Int,
    val usableCores: Int,
    val memoryBytes: Long?,
    val osName: String,
    val osVersion: String,
    val governor: String?,
    val maxFrequencyMhz: Double?,
    val loadAverage: Double?,
)

/**
 * What to measure: [runs] calls each of inference and of a training step.
 *
 * @property what "infer", "train" or both. @property batch examples a call; null takes 1 for inference and 16 for training.
 * A bundle that fixes the batch has its own. @property budgetS seconds for the calls of each; fewer calls are made then.
 */
class BenchmarkPlan(
    val runs: Int,
    val threads: Int = 1,
    val what: List<String> = WHAT,
    val batch: Int? = null,
    val budgetS: Double = Double.POSITIVE_INFINITY,
) {
    init {
        require(runs >= 2) { "runs is $runs, expected 2 or more" }
        require(threads >= 1) { "threads is $threads, expected 1 or more" }
        require(batch == null || batch >= 1) { "batch is $batch, expected 1 or more" }
        require(budgetS > 0) { "the budget is $budgetS s, expected more than 0" }
        require(what.isNotEmpty() && WHAT.containsAll(what)) { "cannot measure ${what.joinToString()}, expected infer or train" }
    }

    internal fun batchOf(name: String): Int = batch ?: if (name == "infer") 1 else 16

    companion object {
        val WHAT = listOf("infer", "train")
    }
}

/**
 * Measure a bundle and return the text of a profile, as `nagedge profile --json` writes one.
 *
 * A training step runs with a step size of 0, so that the numbers are the same every time, on values drawn from the
 * ranges that the manifest declares.
 *
 * @param notes what a reader must know before using the figures. @param now of the profile, in ms since 1970.
 * @param goOn asked before every call; false ends the measurement, if there are two calls of each.
 */
fun benchmark(
    bundle: Bundle,
    plan: BenchmarkPlan,
    machine: Machine,
    device: String,
    notes: List<String>,
    now: Long,
    goOn: () -> Boolean = { true },
): String {
    val runtime = "onnxruntime ${Runtime.environment.version}"
    val workloads = plan.what.map { what ->
        val batch = bundle.batch ?: plan.batchOf(what)
        val started = System.nanoTime()
        val workload = Workload(bundle, what, batch, plan.threads)
        val loadMs = (System.nanoTime() - started) / 1e6
        val (latency, stoppedBy) = workload.use { it.timed(plan.runs, plan.budgetS, goOn) }
        linkedMapOf(
            "name" to what,
            "device" to device,
            "target" to bundle.target.name,
            "precision" to bundle.target.precision,
            "artifact" to if (what == "infer") bundle.inferFile else bundle.trainStepFile,
            "runtime" to runtime,
            "threads" to plan.threads,
            "batch" to batch,
            "evidence" to Latency.EVIDENCE,
            "load_ms" to loadMs,
            "latency" to latency.json(stoppedBy, latency.samplesMs.sum() / 1e3),
            "operators" to null,
            "memory" to null,
            "notes" to notes,
        )
    }
    val profile = linkedMapOf(
        "schema_version" to 2,
        "created" to SimpleDateFormat("yyyy-MM-dd'T'HH:mm:ssXXX", Locale.ROOT).format(Date(now)),
        "bundle" to bundle.folder.name,
        "devices" to listOf(device),
        "host" to linkedMapOf(
            "cpu_model" to machine.cpuModel,
            "architecture" to machine.architecture,
            "logical_cores" to machine.logicalCores,
            "usable_cores" to machine.usableCores,
            "memory_bytes" to machine.memoryBytes,
            "os_name" to machine.osName,
            "os_version" to machine.osVersion,
            "governor" to machine.governor,
            "max_frequency_mhz" to machine.maxFrequencyMhz,
            "virtual_machine" to null,
            "load_average" to machine.loadAverage,
        ),
        "versions" to listOf(
            mapOf("name" to "onnxruntime", "version" to Runtime.environment.version),
            mapOf("name" to "bundle", "version" to bundle.hash),
        ),
        "workloads" to workloads,
    )
    return Json.of(profile).toString() + "\n"
}

/** One prediction or one training step, over and over. */
private class Workload(bundle: Bundle, what: String, batch: Int, threads: Int) : AutoCloseable {
    private val closed: AutoCloseable
    private val run: () -> Unit

    init {
        val random = SplittableRandom(0)
        val manifest = bundle.manifest
        val inputs = manifest.inputs.associate { it.name to drawn(it, batch, random) }
        if (what == "infer") {
            val predictor = Predictor.open(bundle, threads = threads)
            closed = predictor
            run = { predictor.predict(inputs) }
        } else {
            val trainer = Trainer.open(bundle, threads = threads)
            val targets = manifest.tasks.associate { it.name to drawn(it, batch, random) }
            val weights = Tensor.of(FloatArray(batch) { 1f }, batch.toLong())
            closed = trainer
            run = { trainer.step(Batch(inputs, targets, weights), Settings(0f, 0.9f, 0f)) }
        }
    }

    /** At least two calls are made, whatever the budget. */
    fun timed(runs: Int, budgetS: Double, goOn: () -> Boolean): Pair<Latency, String> {
        val samplesMs = ArrayList<Double>()
        val began = System.nanoTime()
        while (samplesMs.size < runs && (samplesMs.size < 2 || (goOn() && System.nanoTime() - began < budgetS * 1e9))) {
            val started = System.nanoTime()
            run()
            samplesMs.add((System.nanoTime() - started) / 1e6)
        }
        return Latency(samplesMs.toDoubleArray()) to if (samplesMs.size == runs) "maximum" else "budget"
    }

    private fun drawn(entry: InputEntry, batch: Int, random: SplittableRandom): Tensor {
        val tensor = Tensor.zeros(entry.tensor.dtype, longArrayOf(batch.toLong()) + entry.tensor.rowShape)
        val bytes = tensor.view()
        repeat(tensor.size) {
            when (entry.tensor.dtype) {
                // Twelve uniform numbers make one that is nearly normal.
                Dtype.FLOAT32 -> bytes.putFloat((entry.mean + entry.std * (List(12) { random.nextDouble() }.sum() - 6)).toFloat())
                Dtype.INT64 -> bytes.putLong(random.nextLong(entry.low, entry.high + 1))
                Dtype.INT32 -> bytes.putInt(random.nextLong(entry.low, entry.high + 1).toInt())
                Dtype.UINT8 -> bytes.put(random.nextLong(entry.low, entry.high + 1).toByte())
                Dtype.BOOL -> bytes.put(random.nextInt(2).toByte())
            }
        }
        return tensor
    }

    private fun drawn(task: TaskEntry, batch: Int, random: SplittableRandom): Tensor {
        val tensor = Tensor.zeros(task.target.dtype, longArrayOf(batch.toLong()) + task.target.rowShape)
        val bytes = tensor.view()
        repeat(tensor.size) {
            when {
                task.kind == TaskKind.CLASSIFICATION -> bytes.putLong(random.nextInt(task.size).toLong())
                task.kind == TaskKind.REGRESSION -> bytes.putFloat((random.nextDouble() - random.nextDouble()).toFloat())
                else -> bytes.putFloat(random.nextInt(2).toFloat())
            }
        }
        return tensor
    }

    override fun close() = closed.close()
}
