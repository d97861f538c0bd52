package android.view;

public final class MotionEvent extends InputEvent {
  private final int action;
  private final float x;
  private final float y;

  public MotionEvent(int action, float x, float y) {
    this.action = action;
    this.x = x;
    this.y = y;
  }

  public int getActionMasked() { return action; }

  public float getX() { return x; }

  public float getY() { return y; }

  public int getHistorySize() { return 0; }

  public float getHistoricalX(int pos) { throw new IllegalStateException(); }

  public float getHistoricalY(int pos) { throw new IllegalStateException(); }
}
