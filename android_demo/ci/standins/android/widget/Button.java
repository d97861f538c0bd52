package android.widget;

import android.content.Context;
import android.graphics.Canvas;
import android.graphics.Paint;
import android.util.AttributeSet;
import java.awt.Color;
import standin.Res;

public class Button extends TextView {
  public Button(Context context, AttributeSet attrs) { super(context, attrs); }

  @Override
  public boolean performClick() {
    if (!isEnabled()) throw new AssertionError("the button \"" + getText() + "\" cannot be tapped: it is disabled");
    return super.performClick();
  }

  @Override
  protected void onDraw(Canvas canvas) {
    canvas.graphics.setColor(new Color(Res.colorOf(isEnabled() ? "@color/accent_soft" : "@color/page"), true));
    canvas.graphics.fillRoundRect(6, 10, getWidth() - 12, getHeight() - 20, 16, 16);
    paint.setColor(Res.colorOf(isEnabled() ? "@color/accent" : "@color/quiet"));
    paint.setTextAlign(Paint.Align.CENTER);
    java.util.List<String> lines = lines(getWidth() - 24);
    float y = getHeight() / 2f - (lines.size() - 1) * paint.getTextSize() * 0.6f + paint.getTextSize() * 0.35f;
    for (String line : lines) {
      canvas.drawText(line, getWidth() / 2f, y, paint);
      y += paint.getTextSize() * 1.2f;
    }
  }
}
