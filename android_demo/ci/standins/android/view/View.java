package android.view;

import android.content.Context;
import android.graphics.Canvas;
import android.util.AttributeSet;
import java.awt.Color;
import java.util.Collections;
import java.util.Map;
import standin.Res;

/** A rectangle with attributes; of Android's layout what the app's files use. */
public class View {
  public static final int VISIBLE = 0;
  protected final Map<String, String> attributes;
  private final Context context;
  private final int id;
  private ViewGroup parent;
  private int width;
  private int height;
  public int left;
  public int top;
  private boolean enabled;
  private int visibility;
  private CharSequence description;
  private OnClickListener listener;

  public View(Context context) { this(context, null); }

  public View(Context context, AttributeSet attrs) {
    this.context = context;
    attributes = attrs == null ? Collections.emptyMap() : attrs.all();
    id = Res.id(attributes.getOrDefault("id", ""));
    enabled = !attributes.getOrDefault("enabled", "true").equals("false");
    visibility = attributes.getOrDefault("visibility", "").equals("gone") ? 8 : VISIBLE;
    if (attributes.containsKey("contentDescription")) description = Res.text(attributes.get("contentDescription"));
  }

  protected final int pixels(String attribute, int otherwise) {
    return attributes.containsKey(attribute) ? Res.pixels(attributes.get(attribute)) : otherwise;
  }

  protected final int padding(String side) { return pixels("padding" + side, pixels("padding", 0)); }

  final void setParent(ViewGroup parent) { this.parent = parent; }

  /** Take as much of the width as the attributes say, and the height that follows. */
  public final void measureIn(int available) {
    int wanted = pixels("layout_width", -1);
    int high = pixels("layout_height", -2);
    onMeasure(wanted > 0 ? wanted : available, Math.max(high, 0));
    if (high > 0) height = high;
    height = Math.max(height, pixels("minHeight", 0));
  }

  protected void onMeasure(int widthMeasureSpec, int heightMeasureSpec) { setMeasuredDimension(widthMeasureSpec, heightMeasureSpec); }

  protected final void setMeasuredDimension(int measuredWidth, int measuredHeight) {
    width = measuredWidth;
    height = measuredHeight;
  }

  public void draw(Canvas canvas) {
    String background = attributes.get("background");
    if (background != null && background.startsWith("@drawable/card")) {
      canvas.graphics.setColor(new Color(Res.colorOf("@color/card"), true));
      canvas.graphics.fillRoundRect(0, 0, width, height, 48, 48);
      canvas.graphics.setColor(new Color(Res.colorOf("@color/line"), true));
      canvas.graphics.setStroke(new java.awt.BasicStroke(2));
      canvas.graphics.drawRoundRect(0, 0, width - 1, height - 1, 48, 48);
    } else if (background != null) {
      canvas.graphics.setColor(new Color(Res.colorOf(background), true));
      canvas.graphics.fillRect(0, 0, width, height);
    }
    onDraw(canvas);
  }

  protected void onDraw(Canvas canvas) {}

  public final Context getContext() { return context; }

  public android.content.res.Resources getResources() { return context.getResources(); }

  @SuppressWarnings("unchecked")
  public final <T extends View> T findViewById(int wanted) { return (T) find(wanted); }

  View find(int wanted) { return id == wanted ? this : null; }

  public final ViewParent getParent() { return parent; }

  public final int getWidth() { return width; }

  public final int getHeight() { return height; }

  public boolean isEnabled() { return enabled; }

  public void setEnabled(boolean enabled) { this.enabled = enabled; }

  public void setVisibility(int visibility) { this.visibility = visibility; }

  public int getVisibility() { return visibility; }

  public void setContentDescription(CharSequence contentDescription) { description = contentDescription; }

  public CharSequence getContentDescription() { return description; }

  public void setOnClickListener(OnClickListener l) { listener = l; }

  public boolean performClick() {
    if (listener != null) listener.onClick(this);
    return listener != null;
  }

  public boolean onTouchEvent(MotionEvent event) { return false; }

  public void invalidate() {}

  public void requestLayout() {}

  public interface OnClickListener {
    void onClick(View v);
  }

  public static class MeasureSpec {
    public static int getSize(int measureSpec) { return measureSpec; }
  }
}
