package android.app.job;

public class JobParameters {
  public JobParameters() {}
}
