package android.util;

public class DisplayMetrics {
  public float density = standin.Device.DENSITY;
  public int heightPixels = (int) (720 * standin.Device.DENSITY);
}
