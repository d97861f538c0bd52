package android.graphics;

public class Canvas {
  public Canvas() {}
  public void drawRect(float left, float top, float right, float bottom, Paint paint) {}
  public void drawLine(float startX, float startY, float stopX, float stopY, Paint paint) {}
  public void drawPath(Path path, Paint paint) {}
  public void drawText(String text, float x, float y, Paint paint) {}
}
