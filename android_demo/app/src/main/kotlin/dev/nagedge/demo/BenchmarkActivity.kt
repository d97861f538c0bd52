package dev.nagedge.demo

import android.app.Activity
import android.app.ActivityManager
import android.content.Context
import android.os.Build
import android.util.Log
import android.view.WindowManager
import android.widget.TextView
import dev.nagedge.core.BenchmarkPlan
import dev.nagedge.core.Bundle
import dev.nagedge.core.Machine
import dev.nagedge.core.benchmark
import dev.nagedge.core.writeAtomically
import java.io.File
import java.util.concurrent.atomic.AtomicBoolean

/**
 * Measures a bundle for `adb`:
 *
 *     am start -W -n dev.nagedge.demo/.BenchmarkActivity --es bundle NAME --ei runs 200
 *
 * The profile lies in `Android/data/dev.nagedge.demo/files/profile.json` afterwards; what went wrong in `profile.error`.
 * One of the two is new when it is done, and the log of the tag NagEdge says which. Extras: `bundle`, a folder in
 * `…/files/bundles`, or the app's own one without it; `runs`; `threads`.
 */
class BenchmarkActivity : Activity() {
    private val stopped = AtomicBoolean()

    override fun onCreate(savedInstanceState: android.os.Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.benchmark)
        window.addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON)
        val (name, runs) = intent.getStringExtra("bundle") to intent.getIntExtra("runs", RUNS)
        val threads = intent.getIntExtra("threads", 1)
        val message = findViewById<TextView>(R.id.message)
        message.text = getString(R.string.benchmark_running, runs)
        Thread({
            val text = measure(name, runs, threads)
            runOnUiThread { message.text = text }
        }, "benchmark").start()
    }

    override fun onDestroy() {
        stopped.set(true)
        super.onDestroy()
    }

    private fun measure(name: String?, runs: Int, threads: Int): String {
        val out = getExternalFilesDir(null) ?: filesDir
        val (profile, problem) = File(out, "profile.json") to File(out, "profile.error")
        profile.delete()
        problem.delete()
        try {
            val bundle = if (name == null) assetBundle(this) else Bundle.open(pushed(out, name))
            val notes = listOf("Measured by the NagEdge app on ${Build.FINGERPRINT}.")
            val plan = BenchmarkPlan(runs, threads)
            val text = benchmark(bundle, plan, machine(), "android", notes, System.currentTimeMillis()) { !stopped.get() }
            writeAtomically(profile) { it.write(text.toByteArray()) }
            Log.i(Workshop.TAG, "profile: ${profile.path}")
            return getString(R.string.benchmark_done, profile.path)
        } catch (error: Exception) {
            Log.e(Workshop.TAG, "profile failed", error)
            writeAtomically(problem) { it.write(error.toString().toByteArray()) }
            return error.toString()
        }
    }

    private fun pushed(out: File, name: String): File {
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
