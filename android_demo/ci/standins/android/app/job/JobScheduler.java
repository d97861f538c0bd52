package android.app.job;

import standin.Device;

public class JobScheduler {
  public int schedule(JobInfo job) {
    Device.jobs.put(job.id, job);
    return 1;
  }

  public void cancel(int jobId) { Device.jobs.remove(jobId); }

  public JobInfo getPendingJob(int jobId) { return Device.jobs.get(jobId); }
}
