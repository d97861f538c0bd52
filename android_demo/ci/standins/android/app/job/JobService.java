package android.app.job;

public abstract class JobService extends android.app.Service {
  public final void jobFinished(JobParameters params, boolean wantsReschedule) { standin.Device.finishedJobs.add(wantsReschedule); }

  public abstract boolean onStartJob(JobParameters params);

  public abstract boolean onStopJob(JobParameters params);
}
