package standin;

import java.io.File;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/** The phone that the stand-ins of Android's classes pretend to be: its folders, its main thread, and what it was asked for. */
public final class Device {
  /** Pixels per dp, and the width of the screen. */
  public static final float DENSITY = 2f;

  public static final int WIDTH = (int) (360 * DENSITY);

  public static File folder;
  public static File assets;
  public static android.app.Application application;

  /** Whether text is measured and drawn with Java's own fonts; else it is guessed, and nothing is drawn. */
  public static boolean draws;

  public static final List<String> toasts = new ArrayList<>();
  public static final Map<Integer, android.app.job.JobInfo> jobs = new LinkedHashMap<>();
  public static final List<Boolean> finishedJobs = new ArrayList<>();
  public static android.app.AlertDialog.Builder dialog;
  public static final Map<Integer, android.content.Intent> started = new HashMap<>();

  private static final LinkedBlockingQueue<Runnable> main = new LinkedBlockingQueue<>();

  private Device() {}

  public static void post(Runnable task) {
    main.add(task);
  }

  /** Do what waits on the main thread until a condition holds. */
  public static void until(String what, java.util.function.BooleanSupplier condition) throws InterruptedException {
    long end = System.nanoTime() + 30_000_000_000L;
    while (!condition.getAsBoolean()) {
      Runnable task = main.poll(20, TimeUnit.MILLISECONDS);
      if (task != null) task.run();
      if (System.nanoTime() > end) throw new AssertionError("waited in vain: " + what);
    }
    for (Runnable task = main.poll(); task != null; task = main.poll()) task.run();
  }
}
