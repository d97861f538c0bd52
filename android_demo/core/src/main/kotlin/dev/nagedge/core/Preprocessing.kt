package dev.nagedge.core

/** A step from raw values to what the model takes. */
sealed class PreparationStep {
    class FillMissing(val value: FloatArray) : PreparationStep()

    class Resize(val height: Int, val width: Int) : PreparationStep()

    class Scale(val factor: Float) : PreparationStep()

    class Normalise(val mean: FloatArray, val std: FloatArray) : PreparationStep()
}

/** `target = (value - mean) / std`, one entry an output or one for all. */
class Standardisation(val mean: FloatArray, val std: FloatArray) {
    fun standardise(values: FloatArray) =
        FloatArray(values.size) { (values[it] - mean[it.coerceAtMost(mean.size - 1)]) / std[it.coerceAtMost(std.size - 1)] }

    fun unstandardise(values: FloatArray) =
        FloatArray(values.size) { values[it] * std[it.coerceAtMost(std.size - 1)] + mean[it.coerceAtMost(mean.size - 1)] }
}

/**
 * The preprocessing that a manifest declares, with the same float32 results as NagEdge's own: the JVM and ART round
 * every float operation by itself.
 */
class Preprocessing(
    val input: String,
    val steps: List<PreparationStep>,
    val targets: Map<String, Standardisation>,
    val classes: Map<String, List<String>>,
) {
    constructor(json: Json, what: String) : this(
        input = json["input"].text("$what, preprocessing"),
        steps = json["steps"].items(what).map { stepOf(it, "$what, preprocessing") },
        targets = json["targets"].optional { it.members(what) }.orEmpty().mapValues { (_, entry) ->
            Standardisation(entry["mean"].floats(what), entry["std"].floats(what))
        },
        classes = json["layout"].optional { it["classes"].optional { classes -> classes.members(what) } }.orEmpty()
            .mapValues { (_, names) -> names.texts(what) },
    )

    /** The steps for one input; other inputs pass unchanged. */
    fun stepsFor(name: String): List<PreparationStep> = if (name == input) steps else emptyList()

    /** The target that the model learns, from one in the task's unit. */
    fun standardise(task: String, values: FloatArray): FloatArray = targets[task]?.standardise(values) ?: values

    /** The value in the task's unit, from a model's output. */
    fun unstandardise(task: String, values: FloatArray): FloatArray = targets[task]?.unstandardise(values) ?: values

    /** Names of a task's classes in label order; numbers when they have none. */
    fun classNames(task: TaskEntry): List<String> = classes[task.name] ?: List(task.size) { "$it" }

    companion object {
        val NONE = Preprocessing("", emptyList(), emptyMap(), emptyMap())

        private fun stepOf(json: Json, what: String): PreparationStep = when (val name = json["step"].text(what)) {
            "fill_missing" -> PreparationStep.FillMissing(json["value"].floats(what))
            "resize" -> PreparationStep.Resize(json["height"].int(what), json["width"].int(what))
            "scale" -> PreparationStep.Scale(json["factor"].double(what).toFloat())
            "normalise" -> PreparationStep.Normalise(json["mean"].floats(what), json["std"].floats(what))
            else -> throw BundleException("$what has the step $name, which this program does not know. Update the program.")
        }
    }
}

/** Raw values of an image in planes, `[channels, height, width]`. */
class Planes(val channels: Int, val height: Int, val width: Int, val values: FloatArray) {
    init {
        require(values.size == channels * height * width) { "${values.size} values for $channels x $height x $width" }
    }

    /** Apply the steps in order. */
    fun prepared(steps: List<PreparationStep>): Planes = steps.fold(this) { planes, step -> planes.prepared(step) }

    private fun prepared(step: PreparationStep): Planes = when (step) {
        is PreparationStep.FillMissing ->
            each { value, channel -> if (value.isNaN()) perChannel(step.value, channel) else value }
        is PreparationStep.Resize -> resized(step.height, step.width)
        is PreparationStep.Scale -> each { value, _ -> value * step.factor }
        is PreparationStep.Normalise ->
            each { value, channel -> (value - perChannel(step.mean, channel)) / perChannel(step.std, channel) }
    }

    private inline fun each(change: (Float, Int) -> Float): Planes {
        val plane = height * width
        return Planes(channels, height, width, FloatArray(values.size) { change(values[it], it / plane) })
    }

    private fun perChannel(entries: FloatArray, channel: Int): Float = when (entries.size) {
        1 -> entries[0]
        channels -> entries[channel]
        else -> throw BundleException("preprocessing has ${entries.size} values for the $channels channels of the input")
    }

    /** Bilinear, half-pixel centres, edges clamped, no antialiasing, rows first: as nagedge/data/resize.py. */
    fun resized(toHeight: Int, toWidth: Int): Planes {
        val (rows, columns) = positions(height, toHeight) to positions(width, toWidth)
        val out = FloatArray(channels * toHeight * toWidth)
        var at = 0
        for (channel in 0 until channels) {
            for (row in rows) {
                val (low, high) = (channel * height + row.low) * width to (channel * height + row.high) * width
                fun between(column: Int) = mix(values[low + column], values[high + column], row.weight)
                for (column in columns) out[at++] = mix(between(column.low), between(column.high), column.weight)
            }
        }
        return Planes(channels, toHeight, toWidth, out)
    }

    private class Position(val low: Int, val high: Int, val weight: Float)

    private fun positions(length: Int, size: Int): List<Position> = List(size) { index ->
        if (length == size) return@List Position(index, index, 0f)
        val position = maxOf((index + 0.5) * length / size - 0.5, 0.0)
        val low = position.toInt()
        Position(low, minOf(low + 1, length - 1), (position - low).toFloat())
    }

    private fun mix(below: Float, above: Float, weight: Float): Float = below + (above - below) * weight
}
