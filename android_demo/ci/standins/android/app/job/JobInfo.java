package android.app.job;

public class JobInfo {
  public int id;
  public boolean charging;
  public boolean idle;

  public static final class Builder {
    private final JobInfo job = new JobInfo();

    public Builder(int jobId, android.content.ComponentName jobService) { job.id = jobId; }

    public Builder setRequiresCharging(boolean requiresCharging) {
      job.charging = requiresCharging;
      return this;
    }

    public Builder setRequiresDeviceIdle(boolean requiresDeviceIdle) {
      job.idle = requiresDeviceIdle;
      return this;
    }

    public JobInfo build() { return job; }
  }
}
