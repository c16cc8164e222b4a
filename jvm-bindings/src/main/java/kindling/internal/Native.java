package kindling.internal;

/**
 * Every function of the native library, and nothing else.
 *
 * <p><b>Loading.</b> This class does not load the library: whoever uses it first makes sure that
 * {@code libc10}, {@code libtorch_cpu} and {@code libkindling} have been loaded, in this order and
 * from a class of this class's loader, and calls {@link #start} once. Before that, every native ends
 * in an {@link UnsatisfiedLinkError}.
 *
 * <p><b>Bytes.</b> A {@code byte[]} is UTF-8 JSON unless its line says otherwise. Native code copies
 * it before it returns and keeps no reference to any Java object.
 *
 * <p><b>Keys.</b> A {@code long} key names a shard, a session or a model. Keys count up from 1, are
 * never used again, and 0 is never valid. Who opens closes; closing twice is fine; any other use
 * after close is an {@link IllegalStateException} that names the kind and the key.
 *
 * <p><b>Threads.</b> All functions may be called from any thread. A shard, a session and a model
 * serve one thread at a time, with one exception: {@link #sessionAbort} is meant for another thread
 * while the first is inside {@link #sessionConnect} or {@link #sessionFit}. No native thread is ever
 * attached to the JVM; Java code is called back only from {@code sessionFit} and {@code
 * programExport}, on the thread that called it.
 *
 * <p><b>Addresses</b> point to memory that the native side owns. An address from {@code shardReserve}
 * is writable until the commit or discard of its shard; one from {@code modelReserve} until the next
 * reserve or the close of its model; one from {@code modelPredict} is readable until the next call on
 * its model. Rows lie one after the other, a column's {@code width} elements per row, in the machine's
 * byte order. The native side trusts what is written: check for nulls and NaN before.
 *
 * <p><b>Exceptions.</b> {@link IllegalArgumentException}: a configuration, program or argument is
 * wrong. {@link IllegalStateException}: the call does not fit the state, such as use after close.
 * {@link PeerLostException}: a peer is lost, a deadline has passed, or the session was aborted.
 * {@link NativeException}: the rest, panics included. Anything but an {@code IllegalStateException}
 * from {@code sessionConnect}, {@code sessionFit} or {@code sessionWeights} ends the session: it keeps
 * this first failure, and later calls repeat it.
 */
public final class Native {
  private Native() {}

  // ---- process ----

  /** Sets the process up; the last call wins. {@code {"logLevel": "off|error|warn|info|debug|trace"}}. */
  public static native void start(byte[] config);

  /**
   * What this library is and can do: {@code {"kindling", "libtorch", "device": ["cpu"], "gpus": [], "noGpu",
   * "sharedBytesPerPeer"}}. {@code device} has "cuda" too, and {@code gpus} their names, where this libtorch and the driver offer GPUs;
   * where not, {@code noGpu} says why.
   */
  public static native byte[] capabilities();

  /**
   * Decodes a picture, a raw PNG or JPEG file, to {@code height * width * channels} bytes: rows from the top, the channels
   * of a pixel side by side, red first. {@code channels} is 1, 3 or 4.
   */
  public static native byte[] imageDecode(byte[] encoded, int height, int width, int channels);

  /**
   * The same for raw pixels laid out like the result; {@code size} is their {@code {height, width,
   * channels}}.
   */
  public static native byte[] imageResize(byte[] pixels, int[] size, int height, int width, int channels);

  /** Describes a program without running it. {@code program}: a raw .pt2 archive or a layer list. */
  public static native byte[] programInspect(byte[] program);

  /**
   * Refuses a {@code training}, the part of a session's configuration, that cannot train the program, before any data is
   * read. Returns {@code {"trainedElements"}}: how much of its parameters would be trained.
   */
  public static native byte[] programCheck(byte[] program, byte[] training);

  /**
   * Writes a program with other weights as a .pt2 archive. {@code config}: {@code {"mode": "training" |
   * "evaluation"}}; {@code program} as above; {@code weights}: raw safetensors. {@code out} gets the
   * archive in pieces, on this thread, and is not closed; what it throws comes out of here unchanged.
   */
  public static native void programExport(
      byte[] config, byte[] program, byte[] weights, java.io.OutputStream out);

  /** Test entry, needs no set-up: {@code "panic"} (plain UTF-8) panics inside native code. */
  public static native void selfTest(byte[] what);

  // ---- shards: one partition's rows, held by this process ----

  /** Opens a shard for one partition and releases the shards of runs that are over. */
  public static native long shardOpen(byte[] spec);

  /** Reserves room for {@code rows} rows; {@code split}: 0 train, 1 validation. Fills one address per column. */
  public static native void shardReserve(long key, int split, int rows, long[] addresses);

  /** Takes over the first {@code rows} of the reserved rows. */
  public static native void shardCommit(long key, int split, int rows);

  /** Seals the shard and reports it; it stays readable for sessions until its run is released. */
  public static native byte[] shardClose(long key);

  /**
   * Drops the sealed shards of a run but those with the keys given and returns how many there were.
   * {@code kept}: {@code {"run", "keys"}}.
   */
  public static native int shardRetain(byte[] kept);

  /**
   * The rows that each rank would fetch from other processes, as a JSON array. {@code placed}: {@code {"shards", "processes"}}, the
   * shards as in a session's configuration, and the process of each rank. Moves nothing.
   */
  public static native byte[] shardMoves(byte[] placed);

  /**
   * Serves the shards of a run over Arrow Flight until the last one here is gone; twice gives the same answer. {@code config}: {@code {"run",
   * "secret", "host", "encrypted"}}; the endpoint: {@code {"host", "port", "certificate"?}}.
   */
  public static native byte[] shardServe(byte[] config);

  /** Drops a shard, finished or not; does nothing when it is gone already. */
  public static native void shardDiscard(long key);

  /** Drops every shard of a run (plain UTF-8) and returns how many there were. */
  public static native int shardRelease(byte[] run);

  /**
   * What this process holds for all runs: {@code {"shards", "bytes", "spareBytes", "spilledBytes"}}. Spare is what dropped shards
   * leave to new ones for half a minute.
   */
  public static native byte[] shardUsage();

  // ---- session: one rank of a run ----

  /** Opens one rank. {@code program}: raw; {@code weights}: raw safetensors, or null for the program's own. */
  public static native long sessionOpen(byte[] config, byte[] program, byte[] weights);

  /** Where this rank listens, for the roster. */
  public static native byte[] sessionEndpoint(long key);

  /** Meets all ranks; {@code roster}: a JSON array of every rank's endpoint in rank order. */
  public static native void sessionConnect(long key, byte[] roster);

  /** Trains until the last epoch is done and returns the report; {@code sink} is called on this thread. */
  public static native byte[] sessionFit(long key, EventSink sink);

  /** The trained weights: raw safetensors, parameters and persistent buffers by name. */
  public static native byte[] sessionWeights(long key);

  /** Wakes a thread that is inside the session with a {@link PeerLostException}; {@code reason}: plain UTF-8. */
  public static native void sessionAbort(long key, byte[] reason);

  /** Closes a rank; a call that is still inside it is aborted first. */
  public static native void sessionClose(long key);

  // ---- model: a program that predicts ----

  /** Opens a program for prediction; arguments as in {@link #sessionOpen}. */
  public static native long modelOpen(byte[] config, byte[] program, byte[] weights);

  /**
   * Opens an open model once more, for another thread: with its own room and results, over the same
   * weights. It may be called while the first is predicting; each of the two is closed by itself.
   */
  public static native long modelShare(long key);

  /** Reserves room for {@code rows} rows; fills one address per input column. */
  public static native void modelReserve(long key, int rows, long[] addresses);

  /**
   * Predicts the first {@code rows} of the reserved rows. Fills addresses of float64 rows: the
   * prediction, the probabilities of all classes or 0 where the loss has none, and each of the {@code outputs} (positions)
   * of the configuration. A result that is not {@code wanted} is not computed, and its address is 0.
   */
  public static native void modelPredict(long key, int rows, boolean[] wanted, long[] addresses);

  /** Closes a model and frees its memory. */
  public static native void modelClose(long key);
}
