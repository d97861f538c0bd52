package standin;

/** Text that can change. */
public final class Text implements android.text.Editable {
  private String text = "";

  public void set(String to) { text = to; }

  @Override
  public int length() { return text.length(); }

  @Override
  public char charAt(int index) { return text.charAt(index); }

  @Override
  public CharSequence subSequence(int start, int end) { return text.substring(start, end); }

  @Override
  public String toString() { return text; }
}
