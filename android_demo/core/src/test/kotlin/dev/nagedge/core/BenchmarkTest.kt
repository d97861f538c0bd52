package dev.nagedge.core

import java.io.File
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertNotNull
import kotlin.test.assertNull
import kotlin.test.assertTrue
import org.junit.Test

class BenchmarkTest {
    private val machine = Machine("JVM", "x86_64", 2, 2, 1L shl 30, "Linux", "6", null, null, 0.5)

    /** Python reads the files that this writes: tests/integration/test_android_core.py. */
    @Test
    fun `the profile has both workloads`() {
        for (case in listOf("folded", "fixed-batch")) {
            val bundle = Golden.bundle(case)
            val text = benchmark(bundle, BenchmarkPlan(runs = 120), machine, "android", listOf("of a test"), 1_700_000_000_000)
            File(Golden.folder, "profile-$case.json").writeText(text)
            val workloads = Json.parse(text)["workloads"].items("workloads")
            assertEquals(listOf("infer", "train"), workloads.map { it["name"].text("name") })
            for (workload in workloads) {
                assertEquals(120, workload["latency"]["samples_ms"].items("samples").size)
                assertTrue(workload["latency"]["quantiles"].items("quantiles")[0]["value"].double("p50") > 0)
            }
        }
    }

    @Test
    fun `a benchmark that is stopped says so`() {
        val text = benchmark(Golden.bundle(), BenchmarkPlan(runs = 1000), machine, "android", emptyList(), 0) { false }
        val latency = Json.parse(text)["workloads"].items("workloads")[0]["latency"]
        assertEquals("budget", latency["stopped_by"].text("it"))
        assertEquals(2, latency["samples_ms"].items("it").size)
    }

    @Test
    fun `a plan says what is measured, with how many examples, and for how long`() {
        val plan = BenchmarkPlan(runs = 100_000, what = listOf("train"), batch = 3, budgetS = 0.05)
        val workloads = Json.parse(benchmark(Golden.bundle(), plan, machine, "android", emptyList(), 0))["workloads"].items("it")
        assertEquals(listOf("train"), workloads.map { it["name"].text("it") })
        assertEquals(3, workloads[0]["batch"].int("it"))
        assertEquals("budget", workloads[0]["latency"]["stopped_by"].text("it"))
        assertTrue(workloads[0]["latency"]["samples_ms"].items("it").size in 2 until 100_000)
        for (wrong in listOf<() -> Unit>(
            { BenchmarkPlan(1) }, { BenchmarkPlan(9, threads = 0) }, { BenchmarkPlan(9, what = listOf("tune")) },
            { BenchmarkPlan(9, what = emptyList()) }, { BenchmarkPlan(9, batch = 0) }, { BenchmarkPlan(9, budgetS = 0.0) },
        )) assertFailsWith<IllegalArgumentException> { wrong() }
    }

    @Test
    fun `a thread can be kept on some cores, with those that it makes`() {
        val thread = File("/proc/thread-self").canonicalFile.name.toInt()
        fun allowed() = File("/proc/thread-self/status").readLines().first { it.startsWith("Cpus_allowed:") }.substringAfter(':')
            .trim().replace(",", "").trimStart('0')
        val before = allowed()
        val lowest = java.math.BigInteger(before, 16).let { it.and(it.negate()).toString(16) }
        try {
            assertNull(pinTo(lowest, thread))
            assertEquals(lowest, allowed())
            var child = ""
            kotlin.concurrent.thread { child = allowed() }.join()
            assertEquals(lowest, child)
        } finally {
            assertNull(pinTo(before, thread))
        }
        assertEquals(before, allowed())
        assertNotNull(pinTo("0", thread), "no core is left")
        assertContains(pinTo("all; reboot", thread)!!, "no mask of cores")
    }

    @Test
    fun `the stock runtime has no training of its own, and that is said`() {
        assertEquals(false, OrtTraining.isAvailable)
        val folder = Golden.bundle().folder
        assertContains(assertFailsWith<BundleException> { OrtTraining.open(folder) }.message!!, "no target of the backend")
        Golden.withCopy { copy ->
            val manifest = File(copy, "manifest.json")
            val backend = "\"backend\": \"onnxruntime\""
            val text = manifest.readText()
            check(backend in text)
            manifest.writeText(text.replace(backend, "\"backend\": \"ort_training\"").replace("\"infer\":", "\"optimizer_model\":"))
            assertContains(assertFailsWith<NagEdgeException> { OrtTraining.open(copy) }.message!!, "without on-device training")
        }
    }
}
