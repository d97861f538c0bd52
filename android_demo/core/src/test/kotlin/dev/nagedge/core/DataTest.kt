package dev.nagedge.core

import kotlin.math.abs
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue
import org.junit.Test

/** Preprocessing, drawings, statistics and JSON. */
class DataTest {
    @Test
    fun `preprocessing gives the numbers of python, bit for bit`() {
        val preprocessing = Preprocessing(Golden.json("preprocessing.json"), "it")
        val tensors = Golden.tensors("preprocessing.safetensors")
        val (_, channels, height, width) = tensors.getValue("raw").shape.map { it.toInt() }
        val raw = Planes(channels, height, width, tensors.getValue("raw").floats())
        val found = raw.prepared(preprocessing.stepsFor("image")).values
        assertEquals(tensors.getValue("prepared").floats().asList(), found.asList())
        assertTrue(preprocessing.stepsFor("other").isEmpty())
        val there = preprocessing.standardise("slant", floatArrayOf(12.5f))
        assertEquals(12.5f, preprocessing.unstandardise("slant", there).single(), 1e-5f)
        assertEquals(listOf(1f), preprocessing.standardise("digit", floatArrayOf(1f)).asList())
    }

    @Test
    fun `statistics agree with python`() {
        for ((name, expected) in Golden.json("statistics.json").members()) {
            val samples = expected["samples"].items(name).map { it.double(name) }.toDoubleArray()
            fun close(field: Json, found: Double, what: String, tolerance: Double = 1e-9) =
                assertEquals(field.double(what), found, tolerance * maxOf(1.0, abs(found)), "$name: $what")
            val warmUp = Statistics.detectWarmUp(samples)
            assertEquals(expected["warm_up"]["length"].int("length"), warmUp.length, name)
            assertEquals(expected["warm_up"]["reached"], Json.Bool(warmUp.reached), name)
            val outliers = Statistics.findOutliers(samples)
            assertEquals(expected["outliers"]["count"].int("count"), outliers.count, name)
            close(expected["outliers"]["fence"], outliers.fence, "fence")
            val drift = Statistics.detectDrift(samples)
            assertEquals(expected["drift"]["detected"], Json.Bool(drift.detected), name)
            close(expected["drift"]["z"], drift.z, "z")
            close(expected["drift"]["relative_change"], drift.relativeChange, "relative change")
            val modes = Statistics.detectModes(samples)
            assertEquals(expected["modes"]["bimodal"], Json.Bool(modes.bimodal), name)
            for ((field, found) in mapOf("low" to modes.low, "high" to modes.high, "share_high" to modes.shareHigh)) {
                close(expected["modes"][field], found, field, 1e-6)
            }
            val quantiles = Statistics.quantiles(samples)
            expected["quantiles"].items(name).zip(quantiles).forEach { (want, found) ->
                assertEquals(want["samples_needed"].int("needed"), found.samplesNeeded)
                assertEquals(want["value"] === Json.Null, found.value == null, name)
                if (found.value != null) {
                    close(want["value"], found.value, "p${found.probability}")
                    // Another generator draws the resamples: the bounds agree as two bootstraps of 1000 do.
                    val width = want["high"].double("high") - want["low"].double("low")
                    assertTrue(abs(want["low"].double("low") - found.low!!) <= 0.35 * width + 1e-9, "$name low of $found")
                    assertTrue(abs(want["high"].double("high") - found.high!!) <= 0.35 * width + 1e-9, "$name high of $found")
                }
            }
        }
    }

    @Test
    fun `recent latencies leave the cold start out`() {
        val recent = RecentLatency()
        assertEquals(null, recent.quantileMs(0.5))
        for (ms in listOf(900, 800, 700, 1, 2, 3)) recent.add(ms * 1_000_000L)
        assertEquals(3, recent.count)
        assertEquals(2.0, recent.quantileMs(0.5))
    }

    private fun Drawing.line(vararg points: Pair<Float, Float>): Drawing =
        points.drop(1).fold(begun(Drawing.Point(points[0].first, points[0].second))) { drawing, (x, y) ->
            drawing.continued(Drawing.Point(x, y))
        }

    @Test
    fun `ink lies where the line is`() {
        assertTrue(Drawing().isEmpty)
        assertTrue(Drawing().ink(28, 28).all { it == 0f })
        val line = Drawing().line(0.5f to 0.2f, 0.5f to 0.8f)
        val ink = line.ink(28, 28)
        fun at(row: Int, column: Int) = ink[row * 28 + column]
        assertEquals(1f, at(14, 14))
        assertEquals(1f, at(14, 13))
        assertEquals(0f, at(14, 17))
        assertEquals(0f, at(1, 14))
        assertEquals(0f, at(27, 14))
        for (row in 0 until 28) for (column in 0 until 14) assertEquals(at(row, column), at(row, 27 - column), 1e-5f)
        assertTrue(line.withoutLast().isEmpty)
        assertTrue(Drawing().begun(Drawing.Point(0.5f, 0.5f)).ink(28, 28).max() > 0.9f, "a dot is ink")
        assertEquals(2, line.line(0f to 0f, 1f to 1f).strokes.size)
    }

    private fun imageEntry(mean: Double, std: Double, channels: Int = 1) = InputEntry(
        Json.parse(
            """{"name": "image", "dtype": "float32", "shape": ["batch", $channels, 14, 14], "mean": $mean, "std": $std}""",
        ),
        "it",
    )

    @Test
    fun `an image is light on dark or dark on light, as the model was trained`() {
        val drawing = Drawing().line(0.5f to 0.2f, 0.5f to 0.8f)
        val dot = Drawing().begun(Drawing.Point(7.5f / 14, 7.5f / 14)) // the middle of a pixel
        val scale = PreparationStep.Scale(1 / 255f)
        val digits = ImageInput(imageEntry(0.13, 0.3), listOf(scale))
        assertTrue(digits.dark)
        assertEquals(255f, digits.white)
        assertEquals(1f, digits.prepared(dot).floats().max())
        assertEquals(0f, digits.prepared(drawing).floats().min())
        val paper = ImageInput(imageEntry(0.9, 0.2), emptyList())
        assertTrue(!paper.dark)
        assertEquals(1f, paper.white)
        assertEquals(1f, paper.prepared(dot).floats().max())
        val colour = ImageInput(imageEntry(0.0, 1.0, 3), listOf(scale, PreparationStep.Normalise(floatArrayOf(0.13f), floatArrayOf(0.3f))))
        assertEquals(listOf(3L, 14L, 14L), colour.prepared(drawing).shape.asList())
        assertTrue(colour.dark)
    }

    @Test
    fun `decisions and scores`() {
        val tasks = Golden.bundle().manifest.tasks.associateBy { it.name }
        val manifest = Golden.bundle().manifest
        val digit = Answer.of(manifest, tasks.getValue("digit"), floatArrayOf(0f, 3f, 1f))
        assertEquals(listOf(1f), digit.decision.asList())
        assertEquals(1f, digit.shown.sum(), 1e-6f)
        assertEquals(listOf(0f, 1f), Answer.of(manifest, tasks.getValue("tags"), floatArrayOf(-1f, 2f)).decision.asList())
        val score = Score.of(tasks.getValue("digit"), listOf(floatArrayOf(1f) to floatArrayOf(1f), floatArrayOf(1f) to floatArrayOf(2f)))
        assertEquals(0.5, score.accuracy)
        val off = Score.of(tasks.getValue("slant"), listOf(floatArrayOf(1f) to floatArrayOf(3f)))
        assertEquals(2.0, off.off)
        assertEquals(null, off.accuracy)
    }

    @Test
    fun `json is read strictly and written back`() {
        val text = """{"a": [1, -2.5e3, true, null, "\u00e9\n\"\\"], "b": {}, "c": []}"""
        val json = Json.parse(text)
        assertEquals(json, Json.parse(json.toString()))
        assertEquals(-2500.0, json["a"].items("a")[1].double("it"))
        assertEquals("é\n\"\\", json["a"].items("a")[4].text("it"))
        val deep = "[".repeat(200) + "]".repeat(200)
        for (wrong in listOf("", "{", "[1,]", "{\"a\":1,}", "01", "1 2", "nul", "\"\u0001\"", "{\"a\":1,\"a\":2}", "NaN", deep)) {
            assertFailsWith<JsonException>(wrong) { Json.parse(wrong) }
        }
        assertContains(assertFailsWith<JsonException> { json["a"].text("the name") }.message!!, "the name: expected a string")
    }
}
