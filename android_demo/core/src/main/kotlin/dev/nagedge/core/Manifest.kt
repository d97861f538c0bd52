package dev.nagedge.core

/** One tensor at the border of a graph; a size of `null` is the batch. */
class TensorEntry(json: Json, what: String) {
    val name: String = json["name"].text(what)
    val dtype: Dtype = json["dtype"].text(what).let {
        Dtype.ofNumpy(it) ?: throw BundleException("$what has dtype $it, for which this program has no type")
    }
    val shape: List<Int?> = json["shape"].items(what).map { if (it is Json.Text) null else it.int(what) }

    /** Of the batch in it only one row, without the axis. */
    val rowShape: LongArray = shape.drop(1).map { (it ?: 1).toLong() }.toLongArray()
}

/** One input of the model. The values that it was trained on had about this [mean] and [std]. */
class InputEntry(json: Json, what: String) {
    val tensor = TensorEntry(json, what)
    val name: String get() = tensor.name
    val mean: Double = json["mean"].optional { it.double(what) } ?: 0.0
    val std: Double = json["std"].optional { it.double(what) } ?: 1.0
    val low: Long = json["low"].optional { it.long(what) } ?: 0
    val high: Long = json["high"].optional { it.long(what) } ?: 0
}

/** What a task's output means. */
enum class TaskKind { CLASSIFICATION, BINARY, MULTILABEL, REGRESSION }

/** One task: its output has its name, its target the name `target.<name>`. */
class TaskEntry(json: Json, what: String) {
    val name: String = json["name"].text(what)
    val kind: TaskKind = json["kind"].text(what).let { kind ->
        TaskKind.values().firstOrNull { it.name.lowercase() == kind }
            ?: throw BundleException("$what, task $name: this program does not know the kind $kind")
    }
    val size: Int = json["size"].int(what)
    val unit: String = json["unit"].optional { it.text(what) }.orEmpty()
    val target = TensorEntry(json["target"], "$what, task $name")
}

/** What the training step trains, and with what by default. */
class TrainingEntry(json: Json, what: String) {
    val parameters: List<String> = json["parameters"].texts(what)
    val buffers: List<String> = json["buffers"].texts(what)
    val settings = Settings(
        lr = json["lr"].double(what).toFloat(),
        momentum = json["momentum"].double(what).toFloat(),
        weightDecay = json["weight_decay"].double(what).toFloat(),
    )
}

/** Of one step of SGD with Nesterov momentum. */
data class Settings(val lr: Float, val momentum: Float, val weightDecay: Float) {
    init {
        require(lr >= 0 && lr.isFinite()) { "lr is $lr, expected 0 or more" }
        require(momentum >= 0 && momentum < 1) { "momentum is $momentum, expected a number in [0, 1)" }
        require(weightDecay >= 0 && weightDecay.isFinite()) { "weight decay is $weightDecay, expected 0 or more" }
    }
}

/** The artifacts of one target by role. */
class TargetEntry(val name: String, json: Json, what: String) {
    val backend: String = json["backend"].text(what)
    val precision: String = json["precision"].text(what)
    val batch: Int? = json["batch"].optional { it.int(what) }
    val artifacts: Map<String, String> = json["artifacts"].members(what).mapValues { (_, path) -> path.text(what) }
}

class FileEntry(json: Json, what: String) {
    val sizeBytes: Long = json["size_bytes"].long(what)
    val sha256: String = json["sha256"].text(what)
}

/** `manifest.json`: everything a client needs to know of a bundle; docs/bundle-format.md is its contract. */
class Manifest private constructor(json: Json, what: String) {
    val model: String = json["model"].text(what)
    val inputs: List<InputEntry> = json["inputs"].items(what).map { InputEntry(it, what) }
    val tasks: List<TaskEntry> = json["tasks"].items(what).map { TaskEntry(it, what) }
    val batch: Int? = json["batch"].optional { it.int(what) }
    val preprocessing: Preprocessing = json["preprocessing"].optional { Preprocessing(it, what) } ?: Preprocessing.NONE
    val training: TrainingEntry? = json["training"].optional { TrainingEntry(it, what) }
    val targets: Map<String, TargetEntry> =
        json["targets"].members(what).mapValues { (name, target) -> TargetEntry(name, target, "$what, target $name") }
    val files: Map<String, FileEntry> =
        json["files"].members(what).mapValues { (name, file) -> FileEntry(file, "$what, file $name") }
    val versions: Map<String, String> = json["versions"].members(what).mapValues { (_, version) -> version.text(what) }

    /**
     * The bundle's hash: SHA-256 of the lines `<sha256>  <path>` of all its files, sorted by path. What verification
     * adds to the manifest later does not change it.
     */
    val hash: String = sha256Of(files.toSortedMap().entries.joinToString("") { (path, file) -> "${file.sha256}  $path\n" })

    /** The only batch size that a target's artifacts take; null when it is free. */
    fun batchOf(target: TargetEntry): Int? = target.batch ?: batch

    fun task(name: String): TaskEntry = tasks.first { it.name == name }

    companion object {
        private const val FORMAT = "nagedge-bundle"
        private const val SCHEMA_VERSION = 1L

        /** @throws BundleException for text that is no manifest, or one that this program does not know. */
        fun parse(text: String): Manifest {
            val what = "manifest.json"
            try {
                val json = Json.parse(text)
                if (json["format"] != Json.Text(FORMAT)) throw BundleException("$what lacks \"format\": \"$FORMAT\"")
                val version = json["schema_version"].long(what)
                if (version != SCHEMA_VERSION) {
                    throw BundleException(
                        "the bundle has schema version $version, this program reads $SCHEMA_VERSION. Update the program, " +
                            "or export again with a NagEdge of its age.",
                    )
                }
                return Manifest(json, what)
            } catch (error: JsonException) {
                throw BundleException("$what is damaged (${error.message}). Export again.", error)
            }
        }
    }
}
