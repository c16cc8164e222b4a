package kindling.internal;

/**
 * Receives what a rank reports while it trains.
 *
 * <p>Called only on the thread that is inside {@link Native#sessionFit}, between two steps. The next
 * step waits for the call to return, so it should be short. An exception thrown here ends the fit on
 * this rank and comes out of {@code sessionFit} unchanged.
 */
@FunctionalInterface
public interface EventSink {
  /** One event: UTF-8 JSON with a {@code type} of {@code progress} or {@code epoch}. */
  void onEvent(byte[] json);
}
