package kindling.internal;

/**
 * A rank could not go on together with its peers: one is gone, one was silent past its deadline, or
 * the session was aborted. The only failure after which a run may be attempted again.
 */
public final class PeerLostException extends RuntimeException {
  private static final long serialVersionUID = 1L;

  /** Thrown by native code through this constructor. */
  public PeerLostException(String message) {
    super(message);
  }
}
