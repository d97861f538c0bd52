package dev.nagedge.demo

import android.app.job.JobInfo
import android.app.job.JobParameters
import android.app.job.JobScheduler
import android.app.job.JobService
import android.content.ComponentName
import android.content.Context
import android.util.Log
import dev.nagedge.core.LessonPlan
import java.util.concurrent.atomic.AtomicBoolean

/**
 * Learns in the background, only while the phone charges and nobody uses it.
 *
 * When that ends, or the process is killed, what was learnt up to the last save stays, and the next run goes on from there
 * as if there had been no interruption.
 */
class FineTuneJob : JobService() {
    private val stopped = AtomicBoolean()

    override fun onStartJob(parameters: JobParameters): Boolean {
        stopped.set(false)
        workshop.ask(
            work = { learner ->
                val plan = LessonPlan(STEPS, BATCH, learner.bundle.training.settings, saveEvery = SAVE_EVERY)
                learner.examples.none { !it.held } || learner.lesson(plan) { !stopped.get() }.finished
            },
            failed = { jobFinished(parameters, false) },
            done = { finished ->
                Log.i(Workshop.TAG, "learnt in the background, finished: $finished")
                if (!stopped.get()) jobFinished(parameters, !finished)
            },
        )
        return true
    }

    override fun onStopJob(parameters: JobParameters): Boolean {
        stopped.set(true)
        return true // go on at the next opportunity
    }

    companion object {
        private const val ID = 1
        private const val STEPS = 200
        private const val BATCH = 16
        private const val SAVE_EVERY = 10

        fun isScheduled(context: Context): Boolean = scheduler(context).getPendingJob(ID) != null

        fun schedule(context: Context): Boolean {
            val job = JobInfo.Builder(ID, ComponentName(context, FineTuneJob::class.java))
                .setRequiresCharging(true)
                .setRequiresDeviceIdle(true)
                .build()
            return scheduler(context).schedule(job) == JobScheduler.RESULT_SUCCESS
        }

        fun cancel(context: Context) = scheduler(context).cancel(ID)

        private fun scheduler(context: Context): JobScheduler = context.getSystemService(JobScheduler::class.java)
    }
}
