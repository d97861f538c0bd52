package dev.nagedge.demo

import android.app.Application
import android.content.Context
import android.os.Handler
import android.os.Looper
import android.util.Log
import dev.nagedge.core.Bundle
import dev.nagedge.core.Learner
import dev.nagedge.core.installBundle
import java.io.File
import java.io.FileNotFoundException
import java.io.IOException
import java.util.concurrent.Executors

/** Holds the one [Workshop] of the process, which the screen and the background job share. */
class DemoApplication : Application() {
    val workshop: Workshop by lazy { Workshop(this) }
}

val Context.workshop: Workshop get() = (applicationContext as DemoApplication).workshop

/** There is no model among the app's assets. */
class NoBundleException(cause: IOException) : IOException("no bundle in the assets", cause)

/** The bundle in the app's assets, as checked files. */
fun assetBundle(context: Context): Bundle {
    try {
        context.assets.open("bundle/${Bundle.MANIFEST}").close()
    } catch (error: FileNotFoundException) {
        throw NoBundleException(error)
    }
    return installBundle({ context.assets.open("bundle/$it") }, File(context.noBackupFilesDir, "bundles"))
}

/** The one learner of the process and the one thread that it is used on: whatever is asked of it waits for its turn. */
class Workshop(private val context: Context) {
    private val worker = Executors.newSingleThreadExecutor { Thread(it, "learner") }
    private val main = Handler(Looper.getMainLooper())

    /** Opened by the first who asks; used on the worker's thread alone. */
    private val learner: Learner by lazy {
        val bundle = assetBundle(context)
        Learner(bundle, File(context.filesDir, "learnt-${bundle.hash.take(16)}"))
    }

    /** Do [work] in its turn; then one of the others is called on the main thread. */
    fun <T> ask(work: (Learner) -> T, failed: (Throwable) -> Unit, done: (T) -> Unit) {
        worker.execute {
            try {
                val result = work(learner)
                main.post { done(result) }
            } catch (error: Exception) {
                Log.w(TAG, error)
                main.post { failed(error) }
            } catch (error: LinkageError) {
                Log.e(TAG, "ONNX Runtime has no library for this processor", error)
                main.post { failed(error) }
            }
        }
    }

    companion object {
        const val TAG = "NagEdge"
    }
}
