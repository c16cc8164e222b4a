package kindling.internal;

/**
 * The native library failed in a way that is neither the caller's configuration, nor the order of
 * calls, nor a lost peer: libtorch refused an operation, memory ran out, or native code panicked.
 */
public final class NativeException extends RuntimeException {
  private static final long serialVersionUID = 1L;

  /** Thrown by native code through this constructor. */
  public NativeException(String message) {
    super(message);
  }
}
