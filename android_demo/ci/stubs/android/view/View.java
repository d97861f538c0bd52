package android.view;

public class View {
  public static final int VISIBLE = 0;
  public View(android.content.Context context) {}
  public View(android.content.Context context, android.util.AttributeSet attrs) {}
  public final android.content.Context getContext() { return null; }
  public android.content.res.Resources getResources() { return null; }
  public final <T extends View> T findViewById(int id) { return null; }
  public final ViewParent getParent() { return null; }
  public final int getWidth() { return 0; }
  public final int getHeight() { return 0; }
  public boolean isEnabled() { return false; }
  public void setEnabled(boolean enabled) {}
  public void setVisibility(int visibility) {}
  public int getVisibility() { return 0; }
  public void setContentDescription(CharSequence contentDescription) {}
  public CharSequence getContentDescription() { return null; }
  public void setOnClickListener(OnClickListener l) {}
  public boolean performClick() { return false; }
  public boolean onTouchEvent(MotionEvent event) { return false; }
  protected void onDraw(android.graphics.Canvas canvas) {}
  protected void onMeasure(int widthMeasureSpec, int heightMeasureSpec) {}
  protected final void setMeasuredDimension(int measuredWidth, int measuredHeight) {}
  public void invalidate() {}
  public void requestLayout() {}
  public interface OnClickListener {
    void onClick(View v);
  }
  public static class MeasureSpec {
    public MeasureSpec() {}
    public static int getSize(int measureSpec) { return 0; }
  }
}
