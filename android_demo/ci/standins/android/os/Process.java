package android.os;

import java.io.File;
import java.io.IOException;

public class Process {
  public static final int myTid() {
    try {
      return Integer.parseInt(new File("/proc/thread-self").getCanonicalFile().getName());
    } catch (IOException error) {
      throw new IllegalStateException(error);
    }
  }
}
