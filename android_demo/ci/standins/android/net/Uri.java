package android.net;

public class Uri {
  public final java.io.File file;

  public Uri(java.io.File file) { this.file = file; }
}
