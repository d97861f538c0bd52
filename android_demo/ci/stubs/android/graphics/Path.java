package android.graphics;

public class Path {
  public Path() {}
  public void reset() {}
  public void moveTo(float x, float y) {}
  public void lineTo(float x, float y) {}
}
