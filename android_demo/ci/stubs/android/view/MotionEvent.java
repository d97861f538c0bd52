package android.view;

public final class MotionEvent extends InputEvent {
  public static final int ACTION_DOWN = 0;
  public static final int ACTION_UP = 1;
  public static final int ACTION_MOVE = 2;
  MotionEvent() {}
  public int getActionMasked() { return 0; }
  public float getX() { return 0; }
  public float getY() { return 0; }
  public int getHistorySize() { return 0; }
  public float getHistoricalX(int pos) { return 0; }
  public float getHistoricalY(int pos) { return 0; }
}
