package android.app;

public class Activity extends android.view.ContextThemeWrapper {
  public static final int RESULT_OK = -1;
  protected void onCreate(android.os.Bundle savedInstanceState) {}
  protected void onStop() {}
  protected void onDestroy() {}
  public void dump(String prefix, java.io.FileDescriptor fd, java.io.PrintWriter writer, String[] args) {}
  public void setContentView(int layoutResID) {}
  public <T extends android.view.View> T findViewById(int id) { return null; }
  public final void runOnUiThread(Runnable action) {}
  public android.content.Intent getIntent() { return null; }
  public android.view.Window getWindow() { return null; }
  public void startActivityForResult(android.content.Intent intent, int requestCode) {}
  protected void onActivityResult(int requestCode, int resultCode, android.content.Intent data) {}
}
