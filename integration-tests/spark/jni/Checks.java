import java.nio.charset.StandardCharsets;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.FutureTask;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** What checks need of a test framework: expectations, and threads with a deadline. */
abstract class Checks {
  private static final long DEADLINE_SECONDS = 60;

  @FunctionalInterface
  interface Body {
    void run() throws Exception;
  }

  static void require(boolean holds, String sentence) {
    if (!holds) {
      throw new AssertionError(sentence);
    }
  }

  static Throwable thrownBy(Body body) {
    try {
      body.run();
      return null;
    } catch (Throwable thrown) {
      return thrown;
    }
  }

  static void expect(Class<? extends Throwable> kind, String part, Body body) {
    Throwable thrown = thrownBy(body);
    require(kind.isInstance(thrown), kind.getSimpleName() + " was expected, not " + thrown);
    require(
        thrown.getMessage() != null && thrown.getMessage().contains(part),
        "\"" + part + "\" was expected in: " + thrown.getMessage());
  }

  /** Those fields of a flat JSON object, as an object. */
  static String keep(String json, String... names) {
    StringBuilder kept = new StringBuilder("{");
    for (String name : names) {
      Matcher field = Pattern.compile("\"" + name + "\":(\"[^\"]*\"|[^,}]+)").matcher(json);
      require(field.find(), "no " + name + " in " + json);
      kept.append(kept.length() == 1 ? "" : ",").append(field.group());
    }
    return kept.append("}").toString();
  }

  static Thread start(String name, FutureTask<?> task) {
    Thread thread = new Thread(task, name);
    thread.setDaemon(true);
    thread.start();
    return thread;
  }

  static <T> FutureTask<T> inThread(String name, Callable<T> body) {
    FutureTask<T> task = new FutureTask<>(body);
    start(name, task);
    return task;
  }

  static <T> T finish(FutureTask<T> task) throws Exception {
    try {
      return task.get(DEADLINE_SECONDS, TimeUnit.SECONDS);
    } catch (ExecutionException failure) {
      if (failure.getCause() instanceof Exception) {
        throw (Exception) failure.getCause();
      }
      throw failure;
    }
  }

  /** Returns once {@code thread} is inside a native: its own stack says so, no clock has to be guessed. */
  static void awaitInside(Thread thread, String function, FutureTask<Throwable> call) throws Exception {
    long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(DEADLINE_SECONDS);
    while (true) {
      StackTraceElement[] stack = thread.getStackTrace();
      if (stack.length > 0 && stack[0].isNativeMethod() && stack[0].getMethodName().equals(function)) {
        return;
      }
      require(!call.isDone(), function + " did not wait: " + (call.isDone() ? call.get() : null));
      require(System.nanoTime() < deadline, function + " was not reached in " + DEADLINE_SECONDS + " s");
      Thread.onSpinWait();
    }
  }

  static byte[] utf8(String text) {
    return text.getBytes(StandardCharsets.UTF_8);
  }

  static String text(byte[] utf8) {
    return new String(utf8, StandardCharsets.UTF_8);
  }
}
