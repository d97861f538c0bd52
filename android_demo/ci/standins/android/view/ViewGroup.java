package android.view;

import android.content.Context;
import android.graphics.Canvas;
import android.util.AttributeSet;
import java.util.ArrayList;
import java.util.List;

/** Children one above the other, or beside each other where the orientation says so. */
public abstract class ViewGroup extends View implements ViewParent {
  protected final List<View> children = new ArrayList<>();

  public ViewGroup(Context context, AttributeSet attrs) { super(context, attrs); }

  public void addView(View child) {
    children.add(child);
    child.setParent(this);
  }

  public void requestDisallowInterceptTouchEvent(boolean disallowIntercept) {}

  @Override
  View find(int wanted) {
    View found = super.find(wanted);
    for (View child : children) if (found == null) found = child.find(wanted);
    return found;
  }

  @Override
  protected void onMeasure(int width, int height) {
    int inner = width - padding("Left") - padding("Right");
    boolean row = attributes.getOrDefault("orientation", "").equals("horizontal");
    float weights = 0;
    for (View child : children) weights += weight(child);
    int x = padding("Left");
    int y = padding("Top");
    int highest = 0;
    for (View child : children) {
      if (child.getVisibility() != VISIBLE) continue;
      y += row ? 0 : child.pixels("layout_marginTop", 0);
      child.measureIn(row ? Math.round(inner * weight(child) / weights) : inner);
      child.left = x;
      child.top = y;
      highest = Math.max(highest, child.getHeight());
      if (row) x += child.getWidth();
      else y += child.getHeight();
    }
    if (row) for (View child : children) child.top = y + (highest - child.getHeight()) / 2;
    setMeasuredDimension(width, y + (row ? highest : 0) + padding("Bottom"));
  }

  private static float weight(View child) { return Float.parseFloat(child.attributes.getOrDefault("layout_weight", "0")); }

  @Override
  public void draw(Canvas canvas) {
    super.draw(canvas);
    for (View child : children) {
      if (child.getVisibility() != VISIBLE) continue;
      java.awt.geom.AffineTransform before = canvas.graphics.getTransform();
      canvas.graphics.translate(child.left, child.top);
      child.draw(canvas);
      canvas.graphics.setTransform(before);
    }
  }
}
