package android.app;

import android.content.DialogInterface;

public class AlertDialog extends Dialog {
  public static class Builder {
    public CharSequence[] items;
    public DialogInterface.OnClickListener listener;

    public Builder(android.content.Context context) {}

    public Builder setTitle(int titleId) { return this; }

    public Builder setItems(CharSequence[] items, DialogInterface.OnClickListener listener) {
      this.items = items;
      this.listener = listener;
      return this;
    }

    public Builder setNegativeButton(int textId, DialogInterface.OnClickListener listener) { return this; }

    public AlertDialog show() {
      standin.Device.dialog = this;
      return new AlertDialog();
    }
  }
}
