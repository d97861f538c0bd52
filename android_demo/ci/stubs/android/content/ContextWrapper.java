package android.content;

public class ContextWrapper extends Context {
  public ContextWrapper(Context base) {}
  public Context getApplicationContext() { return null; }
  public android.content.res.AssetManager getAssets() { return null; }
  public ContentResolver getContentResolver() { return null; }
  public android.content.res.Resources getResources() { return null; }
  public java.io.File getFilesDir() { return null; }
  public java.io.File getNoBackupFilesDir() { return null; }
  public java.io.File getExternalFilesDir(String type) { return null; }
  public Object getSystemService(String name) { return null; }
}
