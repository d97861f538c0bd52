package android.graphics;

import java.awt.Font;
import standin.Device;

public class Paint {
  private Style style = Style.FILL;
  private Cap cap = Cap.BUTT;
  private Join join = Join.MITER;
  private Align align = Align.LEFT;
  private float strokeWidth;
  private float textSize = 12;
  private int color = 0xFF000000;
  private boolean bold;

  public Paint(int flags) {}

  public void setStyle(Style style) { this.style = style; }

  public Style getStyle() { return style; }

  public void setStrokeCap(Cap cap) { this.cap = cap; }

  public Cap getStrokeCap() { return cap; }

  public void setStrokeJoin(Join join) { this.join = join; }

  public Join getStrokeJoin() { return join; }

  public void setStrokeWidth(float width) { strokeWidth = width; }

  public float getStrokeWidth() { return strokeWidth; }

  public void setColor(int color) { this.color = color; }

  public int getColor() { return color; }

  public void setTextSize(float textSize) { this.textSize = textSize; }

  public float getTextSize() { return textSize; }

  public void setTextAlign(Align align) { this.align = align; }

  public Align getTextAlign() { return align; }

  public void setFakeBoldText(boolean fakeBoldText) { bold = fakeBoldText; }

  public final boolean isFakeBoldText() { return bold; }

  /** By Java's font, or about half of its height a letter where nothing is drawn. */
  public float measureText(String text) {
    if (!Device.draws) return 0.5f * textSize * text.length();
    return (float) font().getStringBounds(text, new java.awt.font.FontRenderContext(null, true, true)).getWidth();
  }

  public Font font() { return new Font(Font.SANS_SERIF, bold ? Font.BOLD : Font.PLAIN, 1).deriveFont(textSize); }

  public enum Style { FILL, STROKE, FILL_AND_STROKE }

  public enum Cap { BUTT, ROUND, SQUARE }

  public enum Join { MITER, ROUND, BEVEL }

  public enum Align { LEFT, CENTER, RIGHT }
}
