package dev.nagedge.demo

import android.app.Activity
import android.app.ActivityManager
import android.content.Context
import android.os.Build
import android.os.Process
import android.util.Log
import android.view.WindowManager
import android.widget.TextView
import dev.nagedge.core.BenchmarkPlan
import dev.nagedge.core.Bundle
import dev.nagedge.core.Machine
import dev.nagedge.core.benchmark
import dev.nagedge.core.pinTo
import dev.nagedge.core.writeAtomically
import java.io.File
import java.io.FileDescriptor
import java.io.PrintWriter
import java.util.concurrent.atomic.AtomicBoolean
import java.util.concurrent.atomic.AtomicReference

/**
 * Measures a bundle for `adb`:
 *
 *     am start -W -n dev.nagedge.demo/.BenchmarkActivity --es bundle NAME --ei runs 200
 *
 * Extras: `bundle`, a folder in `…/files/bundles` or an absolute path, such as of `/data/local/tmp`, which apps may read;
 * the app's own one without it. `runs` calls of each; `threads`; `what`, "infer" or "train"; `batch`; `budget_ms` for the
 * calls of each; `cores`, a hexadecimal mask of cores to measure on; `token`, which is told again.
 *
 * The profile lies in `Android/data/dev.nagedge.demo/files/profile.json` afterwards; what went wrong in `profile.error`.
 * One of the two is new when it is done, and the log of the tag NagEdge says which. `nagedge profile` asks
 * `dumpsys activity dev.nagedge.demo/.BenchmarkActivity` instead, which calls [dump]: that needs no storage in common.
 */
class BenchmarkActivity : Activity() {
    private val stopped = AtomicBoolean()
    private val state = AtomicReference(mapOf("state" to "measuring"))
    @Volatile private var hidden = false

    override fun onCreate(savedInstanceState: android.os.Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.benchmark)
        // In front of a lock screen too: what is behind it runs on the slow cores.
        window.addFlags(
            WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON or
                WindowManager.LayoutParams.FLAG_SHOW_WHEN_LOCKED or
                WindowManager.LayoutParams.FLAG_TURN_SCREEN_ON,
        )
        val runs = intent.getIntExtra("runs", RUNS)
        val message = findViewById<TextView>(R.id.message)
        message.text = getString(R.string.benchmark_running, runs)
        Thread({
            val text = measure(runs)
            runOnUiThread { message.text = text }
        }, "benchmark").start()
    }

    override fun onStop() {
        hidden = true
        super.onStop()
    }

    override fun onDestroy() {
        stopped.set(true)
        super.onDestroy()
    }

    /** One line a fact, `nagedge.NAME=VALUE`: what `dumpsys activity` prints of this screen. */
    override fun dump(prefix: String, fd: FileDescriptor?, writer: PrintWriter, args: Array<out String>?) {
        val facts = state.get() + mapOf("token" to intent.getStringExtra("token").orEmpty(), "hidden" to hidden.toString())
        for ((name, value) in facts) writer.println("${prefix}nagedge.$name=${value.replace('\n', ' ')}")
    }

    private fun measure(runs: Int): String {
        val out = getExternalFilesDir(null) ?: filesDir
        val (profile, problem) = File(out, "profile.json") to File(out, "profile.error")
        profile.delete()
        problem.delete()
        try {
            val unpinned = intent.getStringExtra("cores")?.let { pinTo(it, Process.myTid()) }
            val name = intent.getStringExtra("bundle")
            val bundle = if (name == null) assetBundle(this) else Bundle.open(pushed(out, name))
            val notes = listOf("Measured by the NagEdge app on ${Build.FINGERPRINT}.") + listOfNotNull(
                unpinned?.let { "The cores could not be chosen: $it." },
            )
            val text = benchmark(bundle, plan(runs), machine(), "android", notes, System.currentTimeMillis()) { !stopped.get() }
            writeAtomically(profile) { it.write(text.toByteArray()) }
            state.set(mapOf("state" to "done", "unpinned" to unpinned.orEmpty(), "profile" to text.trim()))
            Log.i(Workshop.TAG, "profile: ${profile.path}")
            return getString(R.string.benchmark_done, profile.path)
        } catch (error: Exception) {
            return failed(error, problem)
        } catch (error: LinkageError) { // there is no library for this processor
            return failed(error, problem)
        }
    }

    private fun failed(error: Throwable, problem: File): String {
        state.set(mapOf("state" to "failed", "error" to (error.message ?: error.toString())))
        Log.e(Workshop.TAG, "profile failed", error)
        writeAtomically(problem) { it.write(error.toString().toByteArray()) }
        return error.toString()
    }

    private fun plan(runs: Int): BenchmarkPlan {
        val (batch, budgetMs) = intent.getIntExtra("batch", 0) to intent.getIntExtra("budget_ms", 0)
        return BenchmarkPlan(
            runs,
            threads = intent.getIntExtra("threads", 1),
            what = intent.getStringExtra("what")?.split(',') ?: BenchmarkPlan.WHAT,
            batch = if (batch == 0) null else batch,
            budgetS = if (budgetMs == 0) Double.POSITIVE_INFINITY else budgetMs / 1e3,
        )
    }

    private fun pushed(out: File, name: String): File {
        if (name.startsWith("/")) return File(name)
        Bundle.checkName(name)
        return File(File(out, "bundles"), name)
    }

    private fun machine(): Machine {
        val memory = ActivityManager.MemoryInfo()
        (getSystemService(Context.ACTIVITY_SERVICE) as ActivityManager).getMemoryInfo(memory)
        val chip = if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.S) Build.SOC_MODEL else Build.HARDWARE
        val cores = Runtime.getRuntime().availableProcessors()
        return Machine(
            cpuModel = "${Build.MANUFACTURER} ${Build.MODEL}, $chip",
            architecture = System.getProperty("os.arch").orEmpty(),
            logicalCores = cores,
            usableCores = cores,
            memoryBytes = memory.totalMem,
            osName = "Android ${Build.VERSION.RELEASE} (API ${Build.VERSION.SDK_INT})",
            osVersion = System.getProperty("os.version").orEmpty(),
            governor = readOrNull("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            maxFrequencyMhz = readOrNull("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")?.toDoubleOrNull()?.div(1000),
            loadAverage = null, // apps may not read it
        )
    }

    private fun readOrNull(path: String): String? = try {
        File(path).readText().trim()
    } catch (error: java.io.IOException) {
        null
    }

    private companion object {
        const val RUNS = 200
    }
}
