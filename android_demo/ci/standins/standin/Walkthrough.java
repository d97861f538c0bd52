package standin;

import android.content.Intent;
import android.graphics.Canvas;
import android.view.MotionEvent;
import android.view.View;
import android.widget.Button;
import android.widget.TextView;
import dev.nagedge.demo.BenchmarkActivity;
import dev.nagedge.demo.DemoApplication;
import dev.nagedge.demo.FineTuneJob;
import dev.nagedge.demo.MainActivity;
import dev.nagedge.demo.R;
import java.awt.Graphics2D;
import java.awt.RenderingHints;
import java.awt.image.BufferedImage;
import java.io.File;

/**
 * Uses the app as a person would, on stand-ins of Android's classes: draws, corrects, keeps, learns, hands weights over, resets.
 *
 * <p>Arguments: the app's resources, its assets, a folder for its data, and where to put pictures, or "-" for none. What was
 * seen is printed, a line each.
 */
public final class Walkthrough {
  private final File pictures;
  private MainActivity screen;

  private Walkthrough(File pictures) { this.pictures = pictures; }

  public static void main(String[] arguments) throws Exception {
    Device.draws = !arguments[3].equals("-");
    Device.assets = new File(arguments[1]);
    Device.folder = new File(arguments[2]);
    Res.load(new File(arguments[0]), new String[] {"values"}, "dev.nagedge.demo");
    try {
      new Walkthrough(Device.draws ? new File(arguments[3]) : null).walk();
    } catch (Throwable error) {
      error.printStackTrace();
      Runtime.getRuntime().halt(1); // the app's own threads would go on
    }
    System.out.flush();
    Runtime.getRuntime().halt(0); // as Android ends a process: nobody is asked
  }

  private void walk() throws Exception {
    start();
    say("fresh", text(R.id.steps));
    check(!button(R.id.keep).isEnabled() && !button(R.id.learn).isEnabled(), "nothing can be kept or learnt yet");
    draw(SEVEN);
    say("a seven", verdict());
    say("slant", bars(R.id.value));
    picture("drawn");
    touchBar(3);
    say("corrected", verdict());
    picture("corrected");
    tap(R.id.keep);
    Device.until("kept", () -> text(R.id.examples).startsWith("1 "));
    for (int i = 1; i < 12; i++) {
      draw(i % 2 == 0 ? SEVEN : ONE, 0.01f * i);
      touchBar(i % 2 == 0 ? 3 : 8);
      if (i == 1) ((TextView) screen.findViewById(R.id.right_value)).setText("12.5");
      tap(R.id.keep);
      String expected = (i + 1) + " ";
      int kept = i + 1;
      Device.until("kept " + expected, () -> total() == kept);
    }
    say("examples", text(R.id.examples));
    tap(R.id.forget);
    Device.until("forgotten", () -> total() == 11);
    lesson(50);
    lesson(100);
    lesson(150);
    say("scores", text(R.id.scores).replace("\n", " | "));
    say("latency", text(R.id.latency));
    draw(SEVEN);
    say("a seven after learning", verdict());
    picture("learnt");

    tap(R.id.learn);
    check(text(R.id.learn).equals("Stop"), "a lesson can be stopped");
    tap(R.id.learn);
    Device.until("stopped", () -> text(R.id.learn).equals("Learn") && steps() > 150);
    long stopped = steps();
    say("stopped after", "" + stopped);
    check(stopped > 150 && stopped <= 200, "the lesson was stopped");

    File file = new File(Device.folder, "exported.safetensors");
    tap(R.id.export_weights);
    deliver(1, file);
    Device.until("exported", () -> Device.toasts.contains("Your weights were exported."));
    tap(R.id.reset);
    say("reset asks", String.join(" / ", Device.dialog.items));
    Device.dialog.listener.onClick(null, 0);
    Device.until("reset", () -> steps() == 0);
    check(total() == 11, "examples stay");
    draw(SEVEN);
    say("a seven after the reset", verdict());
    tap(R.id.import_weights);
    deliver(2, file);
    Device.until("imported", () -> steps() == stopped);
    draw(SEVEN);
    say("a seven after the import", verdict());

    tap(R.id.background);
    android.app.job.JobInfo job = Device.jobs.get(1);
    check(job.charging && job.idle, "it waits for power and for nobody to use the phone");
    FineTuneJob service = new FineTuneJob();
    check(service.onStartJob(new android.app.job.JobParameters()), "the job works on");
    Device.until("the job ends", () -> !Device.finishedJobs.isEmpty());
    check(!Device.finishedJobs.get(0), "it is done and need not come again");
    service.onStartJob(new android.app.job.JobParameters());
    check(service.onStopJob(new android.app.job.JobParameters()), "a job that is stopped wants to go on later");

    // The process dies; another one starts with what is on the disk.
    screen.destroy();
    start();
    Device.until("loaded", () -> steps() >= stopped + 200);
    say("after a restart", text(R.id.steps) + ", " + text(R.id.examples));
    check(text(R.id.background).equals("Do not learn while charging"), "the job is still planned");
    tap(R.id.reset);
    Device.dialog.listener.onClick(null, 1);
    Device.until("all forgotten", () -> steps() == 0 && total() == 0);
    benchmark();
    damaged();
  }

  private void benchmark() throws Exception {
    BenchmarkActivity activity = new BenchmarkActivity();
    activity.launch(new Intent("main").putExtra("runs", 60));
    TextView message = activity.findViewById(R.id.message);
    Device.until("measured", () -> !message.getText().toString().startsWith("Measuring"));
    say("benchmark", message.getText().toString());
    BenchmarkActivity wrong = new BenchmarkActivity();
    wrong.launch(new Intent("main").putExtra("bundle", "none").putExtra("runs", 60));
    TextView problem = wrong.findViewById(R.id.message);
    Device.until("refused", () -> !problem.getText().toString().startsWith("Measuring"));
    say("benchmark of nothing", problem.getText().toString());
    activity.destroy();
    activity = new BenchmarkActivity();
    activity.launch(new Intent("main").putExtra("runs", 60));
    TextView again = activity.findViewById(R.id.message);
    Device.until("measured", () -> !again.getText().toString().startsWith("Measuring"));
  }

  private void damaged() throws Exception {
    Device.assets = new File(Device.folder, "no-assets");
    Device.application = new DemoApplication();
    screen = new MainActivity();
    screen.launch(new Intent("main"));
    Device.until("told", () -> screen.findViewById(R.id.problem).getVisibility() == View.VISIBLE);
    say("without a bundle", text(R.id.problem).replace("\n", " "));
    check(!screen.findViewById(R.id.pad).isEnabled(), "nothing can be drawn");
  }

  private void start() throws Exception {
    Device.application = new DemoApplication();
    screen = new MainActivity();
    screen.launch(new Intent("main"));
    layout();
    Device.until("loaded", () -> !text(R.id.examples).isEmpty());
    say("headline", text(R.id.headline));
  }

  private void lesson(long until) throws Exception {
    tap(R.id.learn);
    Device.until("learnt", () -> text(R.id.learn).equals("Learn") && steps() == until);
    say("progress", text(R.id.progress));
  }

  private static final float[][] SEVEN = {{0.25f, 0.22f, 0.75f, 0.22f, 0.45f, 0.82f}, {0.35f, 0.52f, 0.65f, 0.52f}};
  private static final float[][] ONE = {{0.42f, 0.3f, 0.52f, 0.2f, 0.5f, 0.8f}};

  private void draw(float[][] strokes) throws Exception { draw(strokes, 0); }

  /** With a finger on the pad, each line in 8 moves. */
  private void draw(float[][] strokes, float shift) throws Exception {
    layout();
    tap(R.id.clear);
    View pad = screen.findViewById(R.id.pad);
    float left = (pad.getWidth() - pad.getHeight()) / 2f;
    for (float[] stroke : strokes) {
      touch(pad, 0, left, stroke[0] + shift, stroke[1]);
      for (int at = 2; at < stroke.length; at += 2) {
        for (int part = 1; part <= 8; part++) {
          float x = stroke[at - 2] + (stroke[at] - stroke[at - 2]) * part / 8;
          touch(pad, 2, left, x + shift, stroke[at - 1] + (stroke[at + 1] - stroke[at - 1]) * part / 8);
        }
      }
      touch(pad, 1, left, 0, 0);
    }
    Device.until("predicted", () -> button(R.id.keep).isEnabled());
    Device.until("settled", this::settled);
  }

  /** Whether the prediction of what is drawn last has come: two looks 100 ms apart agree. */
  private boolean settled() {
    String before = verdict();
    long end = System.nanoTime() + 100_000_000L;
    try {
      Device.until("a while", () -> System.nanoTime() > end);
    } catch (InterruptedException error) {
      throw new IllegalStateException(error);
    }
    return before.equals(verdict());
  }

  private void touch(View pad, int action, float left, float x, float y) {
    check(pad.onTouchEvent(new MotionEvent(action, left + x * pad.getHeight(), y * pad.getHeight())), "the pad takes the finger");
  }

  /** The middle of a class's bar; ten classes stand in two columns of five. */
  private void touchBar(int index) {
    layout();
    View bars = screen.findViewById(R.id.bars);
    float x = bars.getWidth() * (index / 5 * 2 + 1) / 4f;
    float y = bars.getHeight() * (index % 5 * 2 + 1) / 10f;
    bars.onTouchEvent(new MotionEvent(0, x, y));
    bars.onTouchEvent(new MotionEvent(1, x, y));
  }

  private void deliver(int request, File file) {
    check(Device.started.containsKey(request), "a file was asked for");
    screen.deliver(request, new Intent("chosen").setData(new android.net.Uri(file)));
  }

  private void tap(int id) { button(id).performClick(); }

  private Button button(int id) { return screen.findViewById(id); }

  private String text(int id) { return ((TextView) screen.findViewById(id)).getText().toString(); }

  private String verdict() { return text(R.id.verdict); }

  private String bars(int id) { return text(id); }

  private long steps() {
    String shown = text(R.id.steps);
    return shown.endsWith("steps learnt") ? Long.parseLong(shown.split(" ")[0]) : 0;
  }

  /** Examples to learn from and kept aside. */
  private int total() {
    String[] words = text(R.id.examples).split(" ");
    return words.length < 6 ? 0 : Integer.parseInt(words[0]) + Integer.parseInt(words[5]);
  }

  private void layout() { screen.content().measureIn(Device.WIDTH); }

  private void picture(String name) throws Exception {
    if (pictures == null) return;
    layout();
    View content = screen.content();
    BufferedImage image = new BufferedImage(content.getWidth(), content.getHeight(), BufferedImage.TYPE_INT_RGB);
    Graphics2D graphics = image.createGraphics();
    graphics.setRenderingHint(RenderingHints.KEY_ANTIALIASING, RenderingHints.VALUE_ANTIALIAS_ON);
    graphics.setRenderingHint(RenderingHints.KEY_TEXT_ANTIALIASING, RenderingHints.VALUE_TEXT_ANTIALIAS_ON);
    content.draw(new Canvas(graphics));
    javax.imageio.ImageIO.write(image, "png", new File(pictures, name + ".png"));
  }

  private static void say(String what, String seen) { System.out.println(what + ": " + seen); }

  private static void check(boolean holds, String what) {
    if (!holds) throw new AssertionError(what);
  }
}
