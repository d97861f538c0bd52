package android.widget;

import android.content.Context;
import android.graphics.Canvas;
import android.util.AttributeSet;
import standin.Res;

public class EditText extends TextView {
  public EditText(Context context, AttributeSet attrs) { super(context, attrs); }

  @Override
  public android.text.Editable getText() { return text; }

  @Override
  protected void onDraw(Canvas canvas) {
    boolean empty = text.length() == 0;
    paint.setColor(Res.colorOf(empty ? "@color/quiet" : "@color/text"));
    canvas.drawText(empty ? Res.text(attributes.get("hint")) : text.toString(), 4, getHeight() * 0.62f, paint);
    canvas.drawLine(0, getHeight() * 0.8f, getWidth(), getHeight() * 0.8f, paint);
  }
}
