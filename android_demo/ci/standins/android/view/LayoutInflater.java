package android.view;

import android.content.Context;
import android.util.AttributeSet;
import java.util.Map;
import org.w3c.dom.Element;
import standin.Res;

public class LayoutInflater {
  private final Context context;

  private LayoutInflater(Context context) { this.context = context; }

  public static LayoutInflater from(Context context) { return new LayoutInflater(context); }

  public View inflate(int resource, ViewGroup root, boolean attachToRoot) { return made(Res.layout(resource)); }

  private View made(Element element) {
    String tag = element.getTagName();
    Map<String, String> attributes = Res.attributes(element);
    try {
      Class<?> type = Class.forName(tag.contains(".") ? tag : "android.widget." + tag);
      View view = (View) type.getConstructor(Context.class, AttributeSet.class).newInstance(context, (AttributeSet) () -> attributes);
      for (Element child : Res.children(element)) ((ViewGroup) view).addView(made(child));
      return view;
    } catch (ReflectiveOperationException error) {
      throw new IllegalStateException(tag, error);
    }
  }
}
