package android.widget;

import android.content.Context;

public class Toast {
  private final String text;

  private Toast(CharSequence text) { this.text = text.toString(); }

  public static Toast makeText(Context context, CharSequence text, int duration) { return new Toast(text); }

  public static Toast makeText(Context context, int resId, int duration) { return new Toast(standin.Res.string(resId)); }

  public void show() { standin.Device.toasts.add(text); }
}
