import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.FutureTask;
import java.util.concurrent.TimeUnit;
import kindling.internal.EventSink;
import kindling.internal.Native;
import kindling.internal.NativeException;
import kindling.internal.PeerLostException;

/**
 * Calls every native of the library from a plain JVM, the wrong way round as well as the right one.
 *
 * <p>Meant to run under {@code -Xcheck:jni}. Prints a line per check and a count at the end; exits with
 * 1 when a check failed. Arguments: the folder of libtorch's libraries, and the path of libkindling.
 */
public final class CheckJni extends Checks {
  private static int passed;
  private static int failed;

  public static void main(String[] arguments) {
    if (arguments.length != 2) {
      System.err.println("usage: CheckJni <folder of libtorch's libraries> <path of libkindling.so>");
      System.exit(2);
    }
    Path torch = Path.of(arguments[0]).toAbsolutePath();
    System.load(torch.resolve("libc10.so").toString());
    System.load(torch.resolve("libtorch_cpu.so").toString());
    System.load(Path.of(arguments[1]).toAbsolutePath().toString());

    check("start takes a log level and may be called again", CheckJni::startTwice);
    check("capabilities names both versions", CheckJni::capabilities);
    check("broken JSON and unknown keys are IllegalArgumentExceptions", CheckJni::badConfigurations);
    check("null, text that is not UTF-8 and negative counts are IllegalArgumentExceptions", CheckJni::badArguments);
    check("a program is described, a broken one refused", CheckJni::inspect);
    check("a panic is a NativeException and the process lives on", CheckJni::panic);
    check("keys that were never given or are closed are IllegalStateExceptions", CheckJni::staleKeys);
    check("closing twice is quiet", CheckJni::closeTwice);
    check("an array of addresses of the wrong length is refused", CheckJni::wrongAddresses);
    check("the shards of a run are served at one endpoint", CheckJni::serve);
    check("shards that were made twice are dropped by name", CheckJni::retain);
    check("what would move is told before it does", CheckJni::moves);
    check("two ranks of one JVM train to the same weights", CheckJni::fitAndPredict);
    check("a thousand events leave no local references", CheckJni::manyEvents);
    check("an exception of the event sink ends the fit as itself", CheckJni::sinkThrows);
    check("an exception of one rank's event sink ends the other rank too", CheckJni::sinkThrowsBesideAPeer);
    check("abort wakes a rank that waits in sessionConnect", CheckJni::abortConnect);
    check("abort wakes a rank that waits for a peer of another process", CheckJni::abortConnectOverTcp);
    check("abort wakes a rank that waits in sessionFit", CheckJni::abortFit);
    check("a session keeps its first failure", CheckJni::firstFailureKept);
    check("closing a session that is in use ends the call inside it", CheckJni::closeInUse);

    System.out.println(passed + " passed, " + failed + " failed");
    // Not exit(0): the JVM must be able to end by itself, which an attached native thread would prevent.
    if (failed > 0) {
      System.exit(1);
    }
  }

  // ---- process ----

  private static void startTwice() {
    Native.start(utf8("{\"logLevel\":\"debug\"}"));
    Native.start(utf8("{\"logLevel\":\"info\"}"));
  }

  private static void capabilities() {
    String json = text(Native.capabilities());
    require(json.matches(".*\"kindling\":\"\\d+\\.\\d+\\.\\d+.*"), "no version of Kindling in " + json);
    require(json.contains("\"libtorch\":\"2.11."), "not libtorch 2.11 in " + json);
    require(json.contains("\"device\":[\"cpu\""), "no device cpu in " + json);
    boolean cuda = json.contains("\"device\":[\"cpu\",\"cuda\"]");
    require(cuda != json.contains("\"gpus\":[],\"noGpu\":\"device is cuda:0, but "), "devices and GPUs contradict each other in " + json);
    require(json.matches(".*\"sharedBytesPerPeer\":[1-9]\\d*[,}].*"), "no sharedBytesPerPeer in " + json);
  }

  private static void badConfigurations() {
    byte[] broken = utf8("{\"logLevel\":");
    expect(IllegalArgumentException.class, "", () -> Native.start(broken));
    expect(IllegalArgumentException.class, "", () -> Native.shardOpen(broken));
    expect(IllegalArgumentException.class, "", () -> Native.sessionOpen(broken, Run.LAYERS, null));
    expect(IllegalArgumentException.class, "", () -> Native.modelOpen(broken, Run.LAYERS, null));
    expect(IllegalArgumentException.class, "", () -> Native.shardServe(broken));
    expect(IllegalArgumentException.class, "", () -> Native.shardRetain(broken));
    expect(IllegalArgumentException.class, "", () -> Native.shardMoves(broken));
    byte[] unknown = utf8("{\"surprise\":1}");
    expect(IllegalArgumentException.class, "surprise", () -> Native.start(unknown));
    expect(IllegalArgumentException.class, "surprise", () -> Native.shardOpen(unknown));
    expect(IllegalArgumentException.class, "surprise", () -> Native.sessionOpen(unknown, Run.LAYERS, null));
    expect(IllegalArgumentException.class, "surprise", () -> Native.modelOpen(unknown, Run.LAYERS, null));
    expect(IllegalArgumentException.class, "surprise", () -> Native.shardServe(unknown));
    expect(IllegalArgumentException.class, "surprise", () -> Native.shardRetain(unknown));
    expect(IllegalArgumentException.class, "surprise", () -> Native.shardMoves(unknown));
    expect(IllegalArgumentException.class, "loud", () -> Native.start(utf8("{\"logLevel\":\"loud\"}")));
  }

  private static void badArguments() {
    expect(IllegalArgumentException.class, "null", () -> Native.start(null));
    expect(IllegalArgumentException.class, "null", () -> Native.programInspect(null));
    expect(IllegalArgumentException.class, "null", () -> Native.sessionOpen(null, Run.LAYERS, null));
    expect(IllegalArgumentException.class, "null", () -> Native.imageDecode(null, 1, 1, 1));
    expect(IllegalArgumentException.class, "null", () -> Native.imageResize(new byte[3], null, 1, 1, 1));
    expect(IllegalArgumentException.class, "neither PNG nor JPEG", () -> Native.imageDecode(new byte[3], 1, 1, 1));
    expect(IllegalArgumentException.class, "-2", () -> Native.imageDecode(new byte[3], -2, 1, 1));
    expect(IllegalArgumentException.class, "1, 3 or 4", () -> Native.imageDecode(new byte[3], 1, 1, 300));
    expect(IllegalArgumentException.class, "holds 3 bytes", () -> {
      Native.imageResize(new byte[3], new int[] {2, 2, 3}, 1, 1, 1);
    });
    require(
        Arrays.equals(Native.imageResize(new byte[] {5, 5}, new int[] {1, 2, 1}, 2, 1, 3), new byte[] {5, 5, 5, 5, 5, 5}),
        "two equal pixels are not what they were");
    expect(IllegalArgumentException.class, "UTF-8", () -> Native.shardRelease(new byte[] {(byte) 0xff}));
    expect(IllegalArgumentException.class, "nonsense", () -> Native.selfTest(utf8("nonsense")));
    try (Run run = new Run(1)) {
      long[] addresses = new long[2];
      long shard = run.openShard(0);
      expect(IllegalArgumentException.class, "-1", () -> Native.shardReserve(shard, 0, -1, addresses));
      expect(IllegalArgumentException.class, "2", () -> Native.shardReserve(shard, 2, 1, addresses));
      Native.shardDiscard(shard);
      run.ingest();
      long session = run.open(0);
      expect(IllegalArgumentException.class, "null", () -> Native.sessionFit(session, null));
    }
  }

  private static void inspect() {
    String json = text(Native.programInspect(Run.LAYERS));
    require(json.contains("\"source\":\"layers\""), "no source in " + json);
    require(json.contains("\"elements\":58"), "not 4*8+8 + 8*2+2 elements in " + json);
    String training = Run.training(1);
    String outline = text(Native.programCheck(Run.LAYERS, utf8(training)));
    require(outline.equals("{\"trainedElements\":58}"), "not 58 elements in " + outline);
    byte[] frozen = utf8(training.replace("{\"loss\"", "{\"groups\":[{\"pattern\":\"x\",\"frozen\":true}],\"loss\""));
    expect(IllegalArgumentException.class, "matches no parameter", () -> Native.programCheck(Run.LAYERS, frozen));
    expect(IllegalArgumentException.class, "null", () -> Native.programCheck(Run.LAYERS, null));
    expect(IllegalArgumentException.class, "", () -> Native.programInspect(new byte[0]));
    expect(IllegalArgumentException.class, "", () -> Native.programInspect(utf8("no program")));
    expect(IllegalArgumentException.class, "", () -> Native.programInspect(utf8("PK\u0003\u0004 cut short")));
  }

  private static void panic() {
    for (int i = 0; i < 3; i++) {
      expect(NativeException.class, "a self test asked", () -> Native.selfTest(utf8("panic")));
    }
    capabilities();
  }

  // ---- keys ----

  private static void staleKeys() {
    long[] addresses = new long[2];
    EventSink deaf = json -> {};
    try (Run run = new Run(1)) {
      run.ingest();
      long session = run.open(0);
      Native.sessionClose(session);
      long model = Run.openModel(null);
      Native.modelClose(model);
      long shard = run.openShard(1);
      Native.shardDiscard(shard);
      for (long key : new long[] {session, 0, -1, Long.MAX_VALUE, model}) {
        String name = "session " + key + " ";
        expect(IllegalStateException.class, name, () -> Native.sessionEndpoint(key));
        expect(IllegalStateException.class, name, () -> Native.sessionConnect(key, utf8("[]")));
        expect(IllegalStateException.class, name, () -> Native.sessionFit(key, deaf));
        expect(IllegalStateException.class, name, () -> Native.sessionWeights(key));
        expect(IllegalStateException.class, name, () -> Native.sessionAbort(key, utf8("late")));
      }
      for (long key : new long[] {model, 0, -1, session}) {
        String name = "model " + key + " ";
        expect(IllegalStateException.class, name, () -> Native.modelReserve(key, 1, addresses));
        expect(IllegalStateException.class, name, () -> Native.modelPredict(key, 1, new boolean[2], addresses));
        expect(IllegalStateException.class, name, () -> Native.modelShare(key));
      }
      for (long key : new long[] {shard, 0, -1, Long.MAX_VALUE}) {
        String name = "shard " + key + " ";
        expect(IllegalStateException.class, name, () -> Native.shardReserve(key, 0, 1, addresses));
        expect(IllegalStateException.class, name, () -> Native.shardCommit(key, 0, 1));
        expect(IllegalStateException.class, name, () -> Native.shardClose(key));
      }
    }
  }

  private static void serve() {
    try (Run run = new Run(1)) {
      run.ingest();
      for (boolean encrypted : new boolean[] {true, false}) {
        // A run is served once: the second answer is the first.
        String endpoint = run.serve(encrypted);
        require(endpoint.contains("BEGIN CERTIFICATE"), "no certificate in " + endpoint);
      }
    }
    try (Run none = new Run(1)) {
      expect(IllegalStateException.class, "no shard", () -> none.serve(false));
    }
  }

  private static void retain() {
    try (Run run = new Run(2)) {
      run.ingest();
      long second = run.openShard(1);
      Native.shardClose(second);
      byte[] kept = utf8("{\"run\":\"" + run.name + "\",\"keys\":[" + second + "]}");
      int dropped = Native.shardRetain(kept);
      require(dropped == 2, "dropped " + dropped + " shards instead of 2");
      require(Native.shardRetain(kept) == 0, "dropped a shard that was to stay");
      String usage = new String(Native.shardUsage(), java.nio.charset.StandardCharsets.UTF_8);
      require(usage.startsWith("{\"shards\":1,\"bytes\":"), "one shard was to stay, but the store says " + usage);
      require(Native.shardRelease(utf8(run.name)) == 1, "the shard that was to stay is gone");
    }
  }

  private static void moves() {
    String shard = "{\"partition\":%d,\"process\":\"%s\",\"key\":1,\"rows\":4,\"validationRows\":2}";
    String shards = String.format(shard + "," + shard, 0, "a", 1, "b");
    String placed = "{\"shards\":[" + shards + "],\"processes\":[\"b\",\"c\"]}";
    String moved = text(Native.shardMoves(utf8(placed)));
    require(moved.equals("[0,6]"), "the rows that move are " + moved);
  }

  private static void closeTwice() {
    try (Run run = new Run(1)) {
      run.ingest();
      long session = run.open(0);
      Native.sessionClose(session);
      Native.sessionClose(session);
      long model = Run.openModel(null);
      Native.modelClose(model);
      Native.modelClose(model);
      long shard = run.openShard(1);
      Native.shardDiscard(shard);
      Native.shardDiscard(shard);
      Native.sessionClose(0);
      Native.modelClose(-1);
      Native.shardDiscard(0);
      require(Native.shardRelease(utf8(run.name)) == 1, "the run should have had one shard");
      require(Native.shardRelease(utf8(run.name)) == 0, "the run should have had no shard left");
    }
  }

  private static void wrongAddresses() {
    try (Run run = new Run(1)) {
      long shard = run.openShard(0);
      expect(IllegalArgumentException.class, "3 addresses", () -> Native.shardReserve(shard, 0, 1, new long[3]));
      Native.shardReserve(shard, 0, 1, new long[2]);
      Native.shardDiscard(shard);
      long model = Run.openModel(null);
      expect(IllegalArgumentException.class, "0 addresses", () -> Native.modelReserve(model, 1, new long[0]));
      expect(IllegalArgumentException.class, "null", () -> Native.modelReserve(model, 1, null));
      Native.modelClose(model);
    }
  }

  // ---- training and prediction ----

  private static void fitAndPredict() throws Exception {
    byte[] weights;
    try (Run run = new Run(2)) {
      run.ingest();
      List<Run.Rank> ranks = run.connectAll();
      List<FutureTask<String>> fits = new ArrayList<>();
      for (Run.Rank rank : ranks) {
        fits.add(inThread("rank " + rank.number, () -> text(Native.sessionFit(rank.session, rank.events))));
      }
      for (FutureTask<String> fit : fits) {
        String report = finish(fit);
        require(report.contains("\"epochs\":["), "no epochs in " + report);
      }
      require(ranks.get(0).events.epochs == Run.EPOCHS, "rank 0 saw " + ranks.get(0).events.epochs + " epochs");
      require(ranks.get(0).events.foreign == 0, "events came on a thread that is not the caller's");
      require(ranks.get(1).events.epochs == 0, "rank 1 should report no epochs");
      weights = Native.sessionWeights(ranks.get(0).session);
      byte[] others = Native.sessionWeights(ranks.get(1).session);
      require(weights.length > 58 * 4, "the weights have only " + weights.length + " bytes");
      require(Arrays.equals(weights, others), "the ranks ended with different weights");
    }
    predict(weights);
  }

  private static void predict(byte[] weights) {
    int rows = 32;
    long first = Run.openModel(weights);
    long model = Native.modelShare(first);
    // The second has the weights to itself now, and the first's key is gone.
    Native.modelClose(first);
    expect(IllegalStateException.class, "model " + first + " ", () -> Native.modelShare(first));
    try {
      long[] inputs = new long[1];
      long[] results = new long[2];
      boolean[] both = {true, true};
      for (int round = 0; round < 3; round++) {
        Native.modelReserve(model, rows, inputs);
        for (int row = 0; row < rows; row++) {
          Run.putFeatures(inputs[0], row, row % 2, round * 1000 + row);
        }
        Native.modelPredict(model, rows, both, results);
        for (int row = 0; row < rows; row++) {
          double prediction = Run.UNSAFE.getDouble(results[0] + row * 8L);
          require(prediction == row % 2, "row " + row + " was predicted as " + prediction);
          double zero = Run.UNSAFE.getDouble(results[1] + row * 16L);
          double one = Run.UNSAFE.getDouble(results[1] + row * 16L + 8);
          require(Math.abs(zero + one - 1) < 1e-6, "the probabilities are " + zero + " and " + one);
          require((one > zero) == (prediction == 1.0), "prediction and probability disagree in row " + row);
        }
      }
      Native.modelPredict(model, rows, new boolean[] {true, false}, results);
      require(results[0] != 0 && results[1] == 0, "what is not wanted has an address");
      expect(RuntimeException.class, "", () -> Native.modelPredict(model, rows + 1, both, results));
      expect(IllegalArgumentException.class, "", () -> Native.modelPredict(model, rows, new boolean[3], results));
    } finally {
      Native.modelClose(model);
    }
  }

  private static void manyEvents() throws Exception {
    try (Run run = new Run(1)) {
      run.epochs = 1000;
      run.ingest();
      Run.Rank rank = run.connectAll().get(0);
      Native.sessionFit(rank.session, rank.events);
      require(rank.events.epochs == 1000, "there were " + rank.events.epochs + " epoch events");
    }
  }

  private static void sinkThrows() throws Exception {
    try (Run run = new Run(1)) {
      run.ingest();
      Run.Rank rank = run.connectAll().get(0);
      UnsupportedOperationException mine = new UnsupportedOperationException("enough");
      EventSink angry =
          json -> {
            throw mine;
          };
      Throwable thrown = thrownBy(() -> Native.sessionFit(rank.session, angry));
      require(thrown == mine, "the fit ended with " + thrown);
      expect(RuntimeException.class, "", () -> Native.sessionFit(rank.session, json -> {}));
    }
  }

  private static void sinkThrowsBesideAPeer() throws Exception {
    try (Run run = new Run(2)) {
      run.ingest();
      List<Run.Rank> ranks = run.connectAll();
      UnsupportedOperationException mine = new UnsupportedOperationException("enough");
      FutureTask<Throwable> first =
          inThread(
              "rank 0",
              () ->
                  thrownBy(
                      () ->
                          Native.sessionFit(
                              ranks.get(0).session,
                              json -> {
                                throw mine;
                              })));
      FutureTask<Throwable> second =
          inThread("rank 1", () -> thrownBy(() -> Native.sessionFit(ranks.get(1).session, json -> {})));
      Throwable thrown = finish(first);
      require(thrown == mine, "rank 0 ended with " + thrown);
      Throwable other = finish(second);
      require(other instanceof PeerLostException, "rank 1 ended with " + other);
    }
  }

  // ---- abort and close ----

  private static void abortConnect() throws Exception {
    try (Run run = new Run(2)) {
      run.ingest();
      long waiting = run.open(0);
      String roster = run.rosterOf(waiting, run.open(1));
      abortWhileIn("sessionConnect", waiting, () -> Native.sessionConnect(waiting, utf8(roster)));
    }
  }

  private static void abortConnectOverTcp() throws Exception {
    try (Run run = new Run(2)) {
      run.ingest();
      long waiting = run.open(0);
      // The peer listens but never answers, as one whose task hangs.
      String peer =
          text(Native.sessionEndpoint(run.open(1)))
              .replaceFirst("\"process\":\"[^\"]*\"", "\"process\":\"other\"");
      String roster = "[" + text(Native.sessionEndpoint(waiting)) + "," + peer + "]";
      abortWhileIn("sessionConnect", waiting, () -> Native.sessionConnect(waiting, utf8(roster)));
    }
  }

  private static void abortFit() throws Exception {
    try (Run run = new Run(2)) {
      run.ingest();
      Run.Rank rank = run.connectAll().get(0);
      abortWhileIn("sessionFit", rank.session, () -> Native.sessionFit(rank.session, json -> {}));
    }
  }

  private static void abortWhileIn(String function, long session, Body body) throws Exception {
    FutureTask<Throwable> call = new FutureTask<>(() -> thrownBy(body));
    Thread thread = start("waits in " + function, call);
    awaitInside(thread, function, call);
    long begin = System.nanoTime();
    Native.sessionAbort(session, utf8("the test wants it"));
    Native.sessionAbort(session, utf8("and again"));
    Throwable thrown = finish(call);
    long millis = TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - begin);
    require(thrown instanceof PeerLostException, function + " ended with " + thrown);
    require(thrown.getMessage().contains("the test wants it"), "no reason in: " + thrown.getMessage());
    require(millis < 1000, "the abort took " + millis + " ms");
  }

  private static void firstFailureKept() throws Exception {
    try (Run run = new Run(2)) {
      run.ingest();
      long session = run.open(0);
      String roster = run.rosterOf(session, run.open(1));
      abortWhileIn("sessionConnect", session, () -> Native.sessionConnect(session, utf8(roster)));
      expect(PeerLostException.class, "the test wants it", () -> Native.sessionFit(session, json -> {}));
      expect(PeerLostException.class, "the test wants it", () -> Native.sessionWeights(session));
    }
  }

  private static void closeInUse() throws Exception {
    try (Run run = new Run(2)) {
      run.ingest();
      long session = run.open(0);
      String roster = run.rosterOf(session, run.open(1));
      FutureTask<Throwable> call =
          new FutureTask<>(() -> thrownBy(() -> Native.sessionConnect(session, utf8(roster))));
      awaitInside(start("waits in sessionConnect", call), "sessionConnect", call);
      Native.sessionClose(session);
      Throwable thrown = finish(call);
      require(thrown instanceof PeerLostException, "the call inside ended with " + thrown);
      require(thrown.getMessage().contains("closed"), "no reason in: " + thrown.getMessage());
    }
  }

  private static void check(String name, Body body) {
    try {
      body.run();
      passed++;
      System.out.println("passed: " + name);
    } catch (Throwable failure) {
      failed++;
      System.out.println("FAILED: " + name + ": " + failure);
      failure.printStackTrace();
    }
  }

  private CheckJni() {}
}
