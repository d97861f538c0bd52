package android.app.job;

public abstract class JobService extends android.app.Service {
  public JobService() {}
  public final void jobFinished(JobParameters params, boolean wantsReschedule) {}
  public abstract boolean onStartJob(JobParameters params);
  public abstract boolean onStopJob(JobParameters params);
}
