package android.content;

import java.io.File;
import standin.Device;
import standin.Res;

public abstract class Context {
  public static final String ACTIVITY_SERVICE = "activity";
  private static final android.content.res.Resources RESOURCES = new android.content.res.Resources();
  private static final android.app.job.JobScheduler JOBS = new android.app.job.JobScheduler();

  public Context getApplicationContext() { return Device.application; }

  public android.content.res.AssetManager getAssets() { return new android.content.res.AssetManager(); }

  public ContentResolver getContentResolver() { return new ContentResolver(); }

  public android.content.res.Resources getResources() { return RESOURCES; }

  public File getFilesDir() { return made("files"); }

  public File getNoBackupFilesDir() { return made("no_backup"); }

  public File getExternalFilesDir(String type) { return made("external"); }

  private static File made(String name) {
    File folder = new File(Device.folder, name);
    folder.mkdirs();
    return folder;
  }

  public Object getSystemService(String name) { return new android.app.ActivityManager(); }

  public final <T> T getSystemService(Class<T> serviceClass) { return serviceClass.cast(JOBS); }

  public final String getString(int resId) { return Res.string(resId); }

  public final String getString(int resId, Object... formatArgs) { return String.format(Res.string(resId), formatArgs); }

  public final int getColor(int id) { return Res.color(id); }
}
