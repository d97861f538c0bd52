package android.content.res;

public class Resources {
  private final android.util.DisplayMetrics metrics = new android.util.DisplayMetrics();
  private final Configuration configuration = new Configuration();

  public android.util.DisplayMetrics getDisplayMetrics() { return metrics; }

  public Configuration getConfiguration() { return configuration; }
}
