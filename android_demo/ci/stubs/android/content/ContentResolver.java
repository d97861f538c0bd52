package android.content;

public abstract class ContentResolver {
  public final java.io.InputStream openInputStream(android.net.Uri uri) throws java.io.FileNotFoundException { return null; }
  public final java.io.OutputStream openOutputStream(android.net.Uri uri) throws java.io.FileNotFoundException { return null; }
}
