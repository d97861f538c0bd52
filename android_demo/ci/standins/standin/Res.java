package standin;

import java.io.File;
import java.util.HashMap;
import java.util.Map;
import javax.xml.parsers.DocumentBuilderFactory;
import org.w3c.dom.Element;
import org.w3c.dom.Node;
import org.w3c.dom.NodeList;

/** The app's resources, read from their XML files: strings, colours, styles, layouts. */
public final class Res {
  private static final Map<Integer, String> names = new HashMap<>();
  private static final Map<String, Integer> ids = new HashMap<>();
  private static final Map<String, String> values = new HashMap<>();
  private static final Map<String, Map<String, String>> styles = new HashMap<>();
  private static File folder;

  private Res() {}

  public static void load(File res, String[] valueFolders, String namespace) throws Exception {
    folder = res;
    for (String kind : new String[] {"string", "color", "id", "layout", "drawable", "style"}) {
      for (java.lang.reflect.Field field : Class.forName(namespace + ".R$" + kind).getFields()) {
        names.put(field.getInt(null), kind + "/" + field.getName());
        ids.put(kind + "/" + field.getName(), field.getInt(null));
      }
    }
    for (String values : valueFolders) {
      for (File file : new File(res, values).listFiles()) read(document(file));
    }
  }

  private static void read(Element root) {
    for (Element entry : children(root)) {
      String name = entry.getAttribute("name");
      if (entry.getTagName().equals("style")) {
        Map<String, String> items = new HashMap<>();
        Map<String, String> parent = styles.get(entry.getAttribute("parent"));
        if (parent != null) items.putAll(parent);
        for (Element item : children(entry)) items.put(item.getAttribute("name"), item.getTextContent().trim());
        styles.put(name, items);
      } else {
        String text = entry.getTextContent().replace("\\n", "\n").replace("\\'", "'");
        values.put(entry.getTagName() + "/" + name, text);
      }
    }
  }

  public static String name(int id) {
    String found = names.get(id);
    if (found == null) throw new IllegalArgumentException("no resource " + id);
    return found;
  }

  public static int id(String reference) {
    Integer found = ids.get("id/" + reference.substring(reference.indexOf('/') + 1));
    return found == null ? 0 : found;
  }

  public static String string(int id) {
    return values.get(name(id));
  }

  public static int color(int id) {
    return colorOf("@" + name(id));
  }

  /** The text that an attribute means. */
  public static String text(String written) {
    return written.startsWith("@string/") ? values.get(written.substring(1)) : written;
  }

  public static int colorOf(String written) {
    String value = written.startsWith("@") ? values.get(written.substring(1)) : written;
    return (int) Long.parseLong(value.substring(1), 16);
  }

  /** Pixels; -1 for match_parent, -2 for wrap_content. */
  public static int pixels(String written) {
    if (written.equals("match_parent")) return -1;
    if (written.equals("wrap_content")) return -2;
    return Math.round(Float.parseFloat(written.substring(0, written.length() - 2)) * Device.DENSITY);
  }

  public static Element layout(int id) {
    return document(new File(folder, name(id) + ".xml"));
  }

  /** An element's attributes with those of its style, without the prefix {@code android:}. */
  public static Map<String, String> attributes(Element element) {
    Map<String, String> found = new HashMap<>();
    String style = element.getAttribute("style");
    if (!style.isEmpty()) {
      styles.get(style.substring("@style/".length())).forEach((name, value) -> found.put(name.substring(8), value));
    }
    for (int i = 0; i < element.getAttributes().getLength(); i++) {
      Node attribute = element.getAttributes().item(i);
      if (attribute.getNodeName().startsWith("android:")) found.put(attribute.getNodeName().substring(8), attribute.getNodeValue());
    }
    return found;
  }

  public static java.util.List<Element> children(Element element) {
    java.util.List<Element> found = new java.util.ArrayList<>();
    NodeList nodes = element.getChildNodes();
    for (int i = 0; i < nodes.getLength(); i++) if (nodes.item(i) instanceof Element) found.add((Element) nodes.item(i));
    return found;
  }

  private static Element document(File file) {
    try {
      return DocumentBuilderFactory.newInstance().newDocumentBuilder().parse(file).getDocumentElement();
    } catch (Exception error) {
      throw new IllegalStateException(file.getPath(), error);
    }
  }
}
