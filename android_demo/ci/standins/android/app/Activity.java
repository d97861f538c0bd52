package android.app;

import android.content.Intent;
import android.view.View;

public class Activity extends android.view.ContextThemeWrapper {
  private View content;
  private Intent intent = new Intent("main");
  private boolean destroyed;

  public final void launch(Intent with) {
    intent = with;
    onCreate(null);
  }

  public final void destroy() {
    onStop();
    onDestroy();
  }

  public final void deliver(int requestCode, Intent data) { onActivityResult(requestCode, -1, data); }

  public final View content() { return content; }

  protected void onCreate(android.os.Bundle savedInstanceState) {}

  protected void onStop() {}

  protected void onDestroy() { destroyed = true; }

  public void dump(String prefix, java.io.FileDescriptor fd, java.io.PrintWriter writer, String[] args) {}

  public void setContentView(int layoutResID) { content = android.view.LayoutInflater.from(this).inflate(layoutResID, null, false); }

  public <T extends View> T findViewById(int id) { return content.findViewById(id); }

  public final void runOnUiThread(Runnable action) { standin.Device.post(action); }

  public Intent getIntent() { return intent; }

  public android.view.Window getWindow() {
    return new android.view.Window() {
      @Override
      public void addFlags(int flags) {}
    };
  }

  public void startActivityForResult(Intent intent, int requestCode) { standin.Device.started.put(requestCode, intent); }

  protected void onActivityResult(int requestCode, int resultCode, Intent data) {}
}
