package dev.nagedge.core

import java.io.File

/**
 * One example that a person gave.
 *
 * @property inputs by name, prepared, without the batch axis. @property targets by task, in the task's unit.
 * @property held kept aside to see how the model does on what it did not learn from.
 */
class Example(val inputs: Map<String, Tensor>, val targets: Map<String, FloatArray>, val held: Boolean = false)

/** Batches of examples as the graphs take them; where the batch size is fixed, they are filled up with weight 0. */
class Batcher(private val manifest: Manifest, private val fixed: Int?) {
    fun inputs(examples: List<Example>): Map<String, Tensor> = inputsOf(filled(examples))

    fun batch(examples: List<Example>): Batch {
        require(examples.isNotEmpty()) { "no example to learn from" }
        val rows = filled(examples)
        val targets = manifest.tasks.associate { task -> task.name to target(task, rows) }
        val weights = FloatArray(rows.size) { if (it < examples.size) 1f else 0f }
        return Batch(inputsOf(rows), targets, Tensor.of(weights, rows.size.toLong()))
    }

    private fun inputsOf(rows: List<Example>): Map<String, Tensor> = manifest.inputs.associate { entry ->
        entry.name to Tensor.stack(rows.map { it.inputs.getValue(entry.name) })
    }

    private fun target(task: TaskEntry, rows: List<Example>): Tensor {
        val shape = longArrayOf(rows.size.toLong()) + task.target.rowShape
        val values = rows.map { it.targets.getValue(task.name) }
        if (task.target.dtype == Dtype.INT64) {
            return Tensor.of(values.flatMap { row -> row.map { it.toLong() } }.toLongArray(), *shape)
        }
        val learnt = values.flatMap { manifest.preprocessing.standardise(task.name, it).asList() }
        return Tensor.of(learnt.toFloatArray(), *shape)
    }

    /** Of at most the fixed batch size. */
    private fun filled(examples: List<Example>): List<Example> {
        if (fixed == null) return examples
        require(examples.size <= fixed) { "${examples.size} examples for a batch of $fixed" }
        return List(fixed) { examples[it % examples.size] }
    }
}

/** A person's examples in one file; what is in it survives the process. */
class ExampleStore(val file: File, private val bundle: Bundle) {
    /** @throws WeightsException the file is damaged, or belongs to another export. */
    fun load(): List<Example> {
        if (!file.exists()) return emptyList()
        val found = try {
            Safetensors.read(file)
        } catch (error: NagEdgeException) {
            throw WeightsException("the examples cannot be read: ${error.message}", error)
        }
        if (found.metadata["format"] != FORMAT || found.metadata["bundle"] != bundle.hash) {
            throw WeightsException("the examples belong to another export of the model")
        }
        val count = found.metadata["count"]?.toIntOrNull() ?: throw WeightsException("the examples are damaged")
        fun required(name: String) = found.byName[name] ?: throw WeightsException("the examples are damaged: $name is missing")
        return List(count) { index ->
            Example(
                inputs = bundle.manifest.inputs.associate { it.name to required("$index.input.${it.name}") },
                targets = bundle.manifest.tasks.associate { it.name to required("$index.target.${it.name}").floats() },
                held = required("$index.held").view().get() != 0.toByte(),
            )
        }
    }

    fun save(examples: List<Example>) {
        val tensors = LinkedHashMap<String, Tensor>()
        examples.forEachIndexed { index, example ->
            for ((name, tensor) in example.inputs) tensors["$index.input.$name"] = tensor
            for ((name, values) in example.targets) tensors["$index.target.$name"] = Tensor.of(values, values.size.toLong())
            tensors["$index.held"] = Tensor.zeros(Dtype.UINT8, longArrayOf()).also { it.view().put(if (example.held) 1 else 0) }
        }
        val metadata = mapOf("format" to FORMAT, "bundle" to bundle.hash, "count" to "${examples.size}")
        writeAtomically(file) { Safetensors.write(Tensors(tensors, metadata), it) }
    }

    fun delete() {
        if (file.exists() && !file.delete()) throw NagEdgeException("${file.name} cannot be removed")
    }

    private companion object {
        const val FORMAT = "nagedge-examples"
    }
}
