package android.app;

public class AlertDialog extends Dialog {
  AlertDialog() {}
  public static class Builder {
    public Builder(android.content.Context context) {}
    public Builder setTitle(int titleId) { return this; }
    public Builder setItems(CharSequence[] items, android.content.DialogInterface.OnClickListener listener) { return this; }
    public Builder setNegativeButton(int textId, android.content.DialogInterface.OnClickListener listener) { return this; }
    public AlertDialog show() { return null; }
  }
}
