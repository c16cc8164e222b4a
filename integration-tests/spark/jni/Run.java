import java.lang.reflect.Field;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.FutureTask;
import java.util.concurrent.atomic.AtomicLong;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import kindling.internal.EventSink;
import kindling.internal.Native;
import sun.misc.Unsafe;

/** A run of some ranks in this JVM: its shards and sessions, closed together. */
final class Run implements AutoCloseable {
  static final int EPOCHS = 20;
  static final byte[] LAYERS =
      Checks.utf8(
          "{\"layers\":[{\"type\":\"dense\",\"units\":8,\"activation\":\"relu\"},"
              + "{\"type\":\"dense\",\"units\":2}],\"inputShape\":[4],\"seed\":1}");
  static final Unsafe UNSAFE = unsafe();

  private static final int FEATURES = 4;
  private static final int ROWS_PER_PARTITION = 64;
  private static final AtomicLong NEXT_RUN = new AtomicLong();

  final String name = "run-" + NEXT_RUN.incrementAndGet();
  int epochs = EPOCHS;
  private final int world;
  private final List<String> reports = new ArrayList<>();
  private final List<Long> sessions = new ArrayList<>();

  Run(int world) {
    this.world = world;
  }

  long openShard(int partition) {
    return Native.shardOpen(
        Checks.utf8(
            "{\"run\":\"" + name + "\",\"partition\":" + partition + ",\"attempt\":0,\"liveRuns\":[\"" + name
                + "\"],\"columns\":[" + inputColumn()
                + ",{\"name\":\"label\",\"role\":\"label\",\"dtype\":\"int64\",\"width\":1}]}"));
  }

  /** A shard per rank: class 1 lies around +1 in every feature, class 0 around -1. */
  void ingest() {
    for (int partition = 0; partition < world; partition++) {
      long shard = openShard(partition);
      long[] addresses = new long[2];
      for (int batch = 0; batch < 2; batch++) {
        int rows = ROWS_PER_PARTITION / 2;
        // One row more than is written: a commit may take fewer rows than were reserved.
        Native.shardReserve(shard, 0, rows + 1, addresses);
        for (int row = 0; row < rows; row++) {
          putFeatures(addresses[0], row, row % 2, partition * 100 + batch * 50 + row);
          UNSAFE.putLong(addresses[1] + row * 8L, row % 2);
        }
        Native.shardCommit(shard, 0, rows);
      }
      String report = Checks.text(Native.shardClose(shard));
      Checks.require(report.contains("\"rows\":" + ROWS_PER_PARTITION), "wrong rows in " + report);
      reports.add(report);
    }
  }

  /** The endpoint of a server of this run's shards. */
  String serve(boolean encrypted) {
    return Checks.text(Native.shardServe(Checks.utf8("{" + secret() + ",\"host\":\"127.0.0.1\",\"encrypted\":" + encrypted + "}")));
  }

  private String secret() {
    return "\"run\":\"" + name + "\",\"secret\":\"" + "5a".repeat(32) + "\"";
  }

  /** How the sessions train. */
  static String training(int epochs) {
    return "{\"loss\":{\"name\":\"crossEntropy\"},\"optimizer\":"
        + "{\"name\":\"adamw\",\"learningRate\":0.01,\"weightDecay\":0.01,\"beta1\":0.9,"
        + "\"beta2\":0.999,\"epsilon\":1e-8},\"batchSize\":16,\"maxEpochs\":" + epochs
        + ",\"seed\":7,\"shuffle\":true,\"progressIntervalMs\":1,\"recordRows\":false}";
  }

  long open(int rank) {
    StringBuilder shards = new StringBuilder();
    for (String report : reports) {
      shards.append(shards.length() == 0 ? "" : ",").append(Checks.keep(report, "partition", "process", "key", "rows", "validationRows"));
    }
    long session =
        Native.sessionOpen(
            Checks.utf8(
                "{\"run\":\"" + name + "\",\"attempt\":0,\"rank\":" + rank + ",\"world\":" + world
                    + ",\"secret\":\"" + "5a".repeat(32) + "\",\"host\":\"127.0.0.1\",\"threads\":1"
                    + ",\"device\":\"cpu\",\"rendezvousTimeoutMs\":30000,\"collectiveTimeoutMs\":30000"
                    + ",\"heartbeatMs\":5000,\"stallWarningMs\":60000,\"encrypted\":false"
                    + ",\"shards\":[" + shards + "],\"training\":" + training(epochs) + "}"),
            LAYERS,
            null);
    Checks.require(session > 0, "the key of a session is " + session);
    sessions.add(session);
    return session;
  }

  String rosterOf(long... members) {
    List<String> endpoints = new ArrayList<>();
    for (long session : members) {
      endpoints.add(Checks.text(Native.sessionEndpoint(session)));
    }
    return "[" + String.join(",", endpoints) + "]";
  }

  List<Rank> connectAll() throws Exception {
    long[] keys = new long[world];
    for (int rank = 0; rank < world; rank++) {
      keys[rank] = open(rank);
    }
    byte[] roster = Checks.utf8(rosterOf(keys));
    List<FutureTask<Void>> meetings = new ArrayList<>();
    List<Rank> ranks = new ArrayList<>();
    for (int rank = 0; rank < world; rank++) {
      long key = keys[rank];
      meetings.add(
          Checks.inThread(
              "rank " + rank + " connects",
              () -> {
                Native.sessionConnect(key, roster);
                return null;
              }));
      ranks.add(new Rank(rank, key));
    }
    for (FutureTask<Void> meeting : meetings) {
      Checks.finish(meeting);
    }
    return ranks;
  }

  @Override
  public void close() {
    for (long session : sessions) {
      Native.sessionClose(session);
    }
    Native.shardRelease(Checks.utf8(name));
  }

  static final class Rank {
    final int number;
    final long session;
    final Events events = new Events();

    Rank(int number, long session) {
      this.number = number;
      this.session = session;
    }
  }

  /** Counts events, and those that came on another thread than the first. */
  static final class Events implements EventSink {
    int epochs;
    int foreign;
    private Thread thread;

    @Override
    public void onEvent(byte[] json) {
      if (thread == null) {
        thread = Thread.currentThread();
      }
      if (thread != Thread.currentThread()) {
        foreign++;
      }
      if (Checks.text(json).contains("\"type\":\"epoch\"")) {
        epochs++;
      }
    }
  }

  private static String inputColumn() {
    String description = Checks.text(Native.programInspect(LAYERS));
    Matcher name = Pattern.compile("\"inputs\":\\[\\{\"name\":\"([^\"]+)\"").matcher(description);
    Checks.require(name.find(), "the program names no input");
    return "{\"name\":\"" + name.group(1) + "\",\"role\":\"input\",\"dtype\":\"float32\",\"width\":" + FEATURES + "}";
  }

  static long openModel(byte[] weights) {
    return Native.modelOpen(
        Checks.utf8("{\"threads\":1,\"device\":\"cpu\",\"loss\":{\"name\":\"crossEntropy\"},\"columns\":[" + inputColumn() + "]}"),
        LAYERS,
        weights);
  }

  static void putFeatures(long address, int row, int label, int salt) {
    for (int feature = 0; feature < FEATURES; feature++) {
      float noise = ((salt * 31 + feature * 17) % 19 - 9) / 20f;
      UNSAFE.putFloat(address + (row * (long) FEATURES + feature) * 4, (label == 1 ? 1f : -1f) + noise);
    }
  }

  private static Unsafe unsafe() {
    try {
      Field field = Unsafe.class.getDeclaredField("theUnsafe");
      field.setAccessible(true);
      return (Unsafe) field.get(null);
    } catch (ReflectiveOperationException failure) {
      throw new ExceptionInInitializerError(failure);
    }
  }
}
