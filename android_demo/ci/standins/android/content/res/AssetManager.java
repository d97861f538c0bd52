package android.content.res;

import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;

public final class AssetManager {
  public InputStream open(String fileName) throws IOException { return new FileInputStream(new File(standin.Device.assets, fileName)); }
}
