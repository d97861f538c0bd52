package standin;

import android.content.Intent;
import dev.nagedge.demo.BenchmarkActivity;
import dev.nagedge.demo.DemoApplication;
import java.io.File;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;

/**
 * Starts the app's benchmark as {@code am start} does, and writes what {@code dumpsys activity} would print of it, until it is done.
 *
 * <p>Arguments: the app's resources, its assets, a folder for its data, the file for the dump; then the extras, each as
 * {@code s:NAME=TEXT} or {@code i:NAME=NUMBER}.
 */
public final class Launch {
  private Launch() {}

  public static void main(String[] arguments) throws Exception {
    Device.assets = new File(arguments[1]);
    Device.folder = new File(arguments[2]);
    Res.load(new File(arguments[0]), new String[] {"values"}, "dev.nagedge.demo");
    Device.application = new DemoApplication();
    Intent intent = new Intent("main");
    for (int i = 4; i < arguments.length; i++) {
      String[] extra = arguments[i].substring(2).split("=", 2);
      if (arguments[i].startsWith("i:")) intent.putExtra(extra[0], Integer.parseInt(extra[1]));
      else intent.putExtra(extra[0], extra[1]);
    }
    BenchmarkActivity activity = new BenchmarkActivity();
    activity.launch(intent);
    Path file = new File(arguments[3]).toPath();
    String said = "";
    while (!said.contains("nagedge.state=done") && !said.contains("nagedge.state=failed")) {
      long end = System.nanoTime() + 50_000_000L;
      Device.until("a while", () -> System.nanoTime() > end);
      StringWriter text = new StringWriter();
      activity.dump("    ", null, new PrintWriter(text, true), new String[0]);
      said = text.toString();
      Path part = file.resolveSibling(file.getFileName() + ".part");
      Files.write(part, said.getBytes("UTF-8"));
      Files.move(part, file, StandardCopyOption.REPLACE_EXISTING, StandardCopyOption.ATOMIC_MOVE);
    }
    Runtime.getRuntime().halt(0);
  }
}
