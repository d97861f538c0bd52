package android.widget;

import android.content.Context;
import android.graphics.Canvas;
import android.graphics.Paint;
import android.text.TextWatcher;
import android.util.AttributeSet;
import java.util.ArrayList;
import java.util.List;
import standin.Res;

public class TextView extends android.view.View {
  protected final Paint paint = new Paint(1);
  protected final standin.Text text = new standin.Text();
  private TextWatcher watcher;

  public TextView(Context context, AttributeSet attrs) {
    super(context, attrs);
    paint.setTextSize(pixels("textSize", 28));
    paint.setColor(Res.colorOf(attributes.getOrDefault("textColor", "@color/text")));
    paint.setFakeBoldText(attributes.getOrDefault("textStyle", "").equals("bold"));
    if (attributes.containsKey("text")) setText(Res.text(attributes.get("text")));
  }

  public CharSequence getText() { return text; }

  public final void setText(CharSequence written) {
    text.set(written.toString());
    if (watcher != null) watcher.afterTextChanged(text);
  }

  public final void setText(int resid) { setText(Res.string(resid)); }

  public void addTextChangedListener(TextWatcher watcher) { this.watcher = watcher; }

  protected final List<String> lines(int width) {
    List<String> found = new ArrayList<>();
    for (String paragraph : text.toString().split("\n")) {
      String line = "";
      for (String word : paragraph.split(" ")) {
        String longer = line.isEmpty() ? word : line + " " + word;
        if (!line.isEmpty() && paint.measureText(longer) > width) {
          found.add(line);
          line = word;
        } else {
          line = longer;
        }
      }
      found.add(line);
    }
    return found;
  }

  @Override
  protected void onMeasure(int width, int height) {
    int rows = lines(width - padding("Left") - padding("Right")).size();
    setMeasuredDimension(width, Math.round(rows * paint.getTextSize() * 1.35f) + padding("Top") + padding("Bottom"));
  }

  @Override
  protected void onDraw(Canvas canvas) {
    float y = padding("Top") + paint.getTextSize();
    for (String line : lines(getWidth() - padding("Left") - padding("Right"))) {
      canvas.drawText(line, padding("Left"), y, paint);
      y += paint.getTextSize() * 1.35f;
    }
  }
}
