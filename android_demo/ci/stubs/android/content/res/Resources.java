package android.content.res;

public class Resources {
  Resources() {}
  public android.util.DisplayMetrics getDisplayMetrics() { return null; }
  public Configuration getConfiguration() { return null; }
}
