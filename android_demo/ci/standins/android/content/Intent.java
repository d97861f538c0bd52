package android.content;

import java.util.HashMap;
import java.util.Map;

public class Intent {
  public static final String ACTION_CREATE_DOCUMENT = "android.intent.action.CREATE_DOCUMENT";
  public final String action;
  private final Map<String, Object> extras = new HashMap<>();
  private android.net.Uri data;

  public Intent(String action) { this.action = action; }

  public Intent addCategory(String category) { return this; }

  public Intent setType(String type) { return this; }

  public Intent setData(android.net.Uri uri) {
    data = uri;
    return this;
  }

  public Intent putExtra(String name, String value) {
    extras.put(name, value);
    return this;
  }

  public Intent putExtra(String name, int value) {
    extras.put(name, value);
    return this;
  }

  public String getStringExtra(String name) { return (String) extras.get(name); }

  public int getIntExtra(String name, int defaultValue) { return (Integer) extras.getOrDefault(name, defaultValue); }

  public android.net.Uri getData() { return data; }
}
