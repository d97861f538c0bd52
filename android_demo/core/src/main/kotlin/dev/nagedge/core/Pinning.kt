package dev.nagedge.core

import java.io.IOException

/**
 * Let a thread of this process, and the threads that it makes from then on, run on some cores only: a phone's cores differ
 * several times in speed. The other threads stay where they are, so that they do not take those cores from it.
 *
 * The system's own `taskset` does it (toybox, since Android 6; util-linux elsewhere): a process may move its threads without
 * any permission, and Java has no call for it.
 *
 * @param mask of cores in hexadecimal, such as "f0" for the cores 4 to 7. @param thread the system's number of it.
 * @return null when it is done, else why it is not.
 */
fun pinTo(mask: String, thread: Int): String? {
    if (!mask.matches(Regex("[0-9a-fA-F]{1,64}"))) return "\"$mask\" is no mask of cores"
    return try {
        val process = ProcessBuilder("taskset", "-p", mask, thread.toString()).redirectErrorStream(true).start()
        val said = process.inputStream.bufferedReader().readText().trim()
        if (process.waitFor() == 0) null else said.lines().last().ifEmpty { "taskset failed" }
    } catch (error: IOException) {
        error.message ?: "taskset failed"
    }
}
