package android.widget;

public class Toast {
  public static final int LENGTH_LONG = 1;
  Toast() {}
  public static Toast makeText(android.content.Context context, CharSequence text, int duration) { return null; }
  public static Toast makeText(android.content.Context context, int resId, int duration) { return null; }
  public void show() {}
}
