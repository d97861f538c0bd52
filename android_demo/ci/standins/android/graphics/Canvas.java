package android.graphics;

import java.awt.BasicStroke;
import java.awt.Color;
import java.awt.Graphics2D;
import java.awt.geom.Line2D;
import java.awt.geom.Rectangle2D;

/** Draws with Java's own graphics. */
public class Canvas {
  public final Graphics2D graphics;

  public Canvas(Graphics2D graphics) { this.graphics = graphics; }

  private void shape(java.awt.Shape shape, Paint paint) {
    graphics.setColor(new Color(paint.getColor(), true));
    if (paint.getStyle() == Paint.Style.FILL) {
      graphics.fill(shape);
    } else {
      boolean round = paint.getStrokeCap() == Paint.Cap.ROUND;
      graphics.setStroke(new BasicStroke(
          paint.getStrokeWidth(), round ? BasicStroke.CAP_ROUND : BasicStroke.CAP_BUTT, round ? BasicStroke.JOIN_ROUND : BasicStroke.JOIN_MITER));
      graphics.draw(shape);
    }
  }

  public void drawRect(float left, float top, float right, float bottom, Paint paint) {
    shape(new Rectangle2D.Float(left, top, right - left, bottom - top), paint);
  }

  public void drawLine(float startX, float startY, float stopX, float stopY, Paint paint) {
    graphics.setColor(new Color(paint.getColor(), true));
    graphics.setStroke(new BasicStroke(Math.max(1, paint.getStrokeWidth())));
    graphics.draw(new Line2D.Float(startX, startY, stopX, stopY));
  }

  public void drawPath(Path path, Paint paint) { shape(path.shape, paint); }

  public void drawText(String text, float x, float y, Paint paint) {
    float width = paint.measureText(text);
    float left = paint.getTextAlign() == Paint.Align.LEFT ? x : paint.getTextAlign() == Paint.Align.RIGHT ? x - width : x - width / 2;
    graphics.setColor(new Color(paint.getColor(), true));
    graphics.setFont(paint.font());
    graphics.drawString(text, left, y);
  }
}
