package android.util;

public interface AttributeSet {
  java.util.Map<String, String> all();
}
