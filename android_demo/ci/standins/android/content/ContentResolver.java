package android.content;

import java.io.FileInputStream;
import java.io.FileNotFoundException;
import java.io.FileOutputStream;

public class ContentResolver {
  public final java.io.InputStream openInputStream(android.net.Uri uri) throws FileNotFoundException { return new FileInputStream(uri.file); }

  public final java.io.OutputStream openOutputStream(android.net.Uri uri) throws FileNotFoundException { return new FileOutputStream(uri.file); }
}
