package android.os;

public class Build {
  public static final String FINGERPRINT = "stand-in";
  public static final String HARDWARE = "none";
  public static final String MANUFACTURER = "NagEdge";
  public static final String MODEL = "stand-in";
  public static final String SOC_MODEL = "none";

  public static class VERSION {
    public static final String RELEASE = "7.0";
    public static final int SDK_INT = Integer.parseInt("24");
  }
}
