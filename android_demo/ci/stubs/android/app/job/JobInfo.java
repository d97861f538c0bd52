package android.app.job;

public class JobInfo {
  JobInfo() {}
  public static final class Builder {
    public Builder(int jobId, android.content.ComponentName jobService) {}
    public Builder setRequiresCharging(boolean requiresCharging) { return this; }
    public Builder setRequiresDeviceIdle(boolean requiresDeviceIdle) { return this; }
    public JobInfo build() { return null; }
  }
}
