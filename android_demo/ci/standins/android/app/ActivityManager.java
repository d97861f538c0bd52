package android.app;

public class ActivityManager {
  public void getMemoryInfo(MemoryInfo outInfo) { outInfo.totalMem = 1L << 31; }

  public static class MemoryInfo {
    public long totalMem;
  }
}
