package android.content;

public final class ComponentName {
  public ComponentName(Context pkg, Class<?> cls) {}
}
