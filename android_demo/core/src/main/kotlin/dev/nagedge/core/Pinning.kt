package dev.nagedge.core

import java.io.File
import java.io.IOException

/**
 * Let this process, with all its threads, run on some cores only: a phone's cores differ several times in speed.
 *
 * The system's own `taskset` does it (toybox, since Android 6; util-linux elsewhere): a process may move itself without
 * any permission, and Java has no call for it. Threads that are made later inherit it.
 *
 * @param mask of cores in hexadecimal, such as "f0" for the cores 4 to 7.
 * @return null when it is done, else why it is not.
 */
fun pinTo(mask: String): String? {
    if (!mask.matches(Regex("[0-9a-fA-F]{1,64}"))) return "\"$mask\" is no mask of cores"
    return try {
        val process = ProcessBuilder("taskset", "-ap", mask, File("/proc/self").canonicalFile.name).redirectErrorStream(true).start()
        val said = process.inputStream.bufferedReader().readText().trim()
        if (process.waitFor() == 0) null else said.lines().last().ifEmpty { "taskset failed" }
    } catch (error: IOException) {
        error.message ?: "taskset failed"
    }
}
