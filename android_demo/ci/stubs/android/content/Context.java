package android.content;

public abstract class Context {
  public static final String ACTIVITY_SERVICE = "activity";
  public abstract Context getApplicationContext();
  public abstract android.content.res.AssetManager getAssets();
  public abstract ContentResolver getContentResolver();
  public abstract android.content.res.Resources getResources();
  public abstract java.io.File getFilesDir();
  public abstract java.io.File getNoBackupFilesDir();
  public abstract java.io.File getExternalFilesDir(String type);
  public abstract Object getSystemService(String name);
  public final <T> T getSystemService(Class<T> serviceClass) { return null; }
  public final String getString(int resId) { return null; }
  public final String getString(int resId, Object... formatArgs) { return null; }
  public final int getColor(int id) { return 0; }
}
