package android.graphics;

public class Paint {
  public static final int ANTI_ALIAS_FLAG = 1;
  public Paint(int flags) {}
  public void setStyle(Style style) {}
  public Style getStyle() { return null; }
  public void setStrokeCap(Cap cap) {}
  public Cap getStrokeCap() { return null; }
  public void setStrokeJoin(Join join) {}
  public Join getStrokeJoin() { return null; }
  public void setStrokeWidth(float width) {}
  public float getStrokeWidth() { return 0; }
  public void setColor(int color) {}
  public int getColor() { return 0; }
  public void setTextSize(float textSize) {}
  public float getTextSize() { return 0; }
  public void setTextAlign(Align align) {}
  public Align getTextAlign() { return null; }
  public void setFakeBoldText(boolean fakeBoldText) {}
  public final boolean isFakeBoldText() { return false; }
  public float measureText(String text) { return 0; }
  public enum Style {
    FILL, STROKE, FILL_AND_STROKE
  }
  public enum Cap {
    BUTT, ROUND, SQUARE
  }
  public enum Join {
    MITER, ROUND, BEVEL
  }
  public enum Align {
    LEFT, CENTER, RIGHT
  }
}
