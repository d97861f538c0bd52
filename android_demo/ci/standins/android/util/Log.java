package android.util;

public final class Log {
  public static int i(String tag, String msg) {
    System.out.println("log: " + msg);
    return 0;
  }

  public static int w(String tag, Throwable tr) {
    System.out.println("warning: " + tr);
    return 0;
  }

  public static int e(String tag, String msg, Throwable tr) {
    System.out.println("error: " + msg);
    tr.printStackTrace(System.out);
    return 0;
  }
}
