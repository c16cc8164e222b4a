package org.apache.spark.ml.kindling

import java.util.concurrent.TimeoutException

import org.apache.spark.{SparkEnv, TaskContext}
import org.apache.spark.rpc.{RpcCallContext, RpcEndpointRef, RpcEnv, RpcTimeout, ThreadSafeRpcEndpoint}
import org.apache.spark.util.RpcUtils

import scala.collection.mutable
import scala.concurrent.Await
import scala.concurrent.duration.DurationLong

/**
 * Every rank of a run hands in a message and gets those of all ranks, over the RPC that Spark has open anyway (and authenticates and
 * encrypts as it is configured).
 *
 * Spark's own `BarrierTaskContext.allGather` gives the same, but a task looks for its answer once a second only, and a year long.
 */
final class AllGather private (env: RpcEnv, endpoint: RpcEndpointRef) extends AutoCloseable {

  /** No rank is answered any more. */
  override def close(): Unit = env.stop(endpoint)
}

object AllGather {
  private final val PollMs = 50L

  /** Opens the driver's end. `arrived` is told which ranks have handed in theirs, on a thread of Spark's: it must be quick. */
  def open(name: String, world: Int)(arrived: Int => Unit): AllGather = {
    val env = SparkEnv.get.rpcEnv
    new AllGather(env, env.setupEndpoint(name, new Desk(env, world, arrived)))
  }

  /**
   * A rank's end: the messages of all ranks by rank, once all are there. Ends with an exception of Spark's when the task is killed
   * meanwhile, or after `limitMs`, which the setting `limit` gives.
   */
  def gather(
      name: String,
      rank: Int,
      message: Array[Byte],
      context: TaskContext,
      limitMs: Long,
      limit: String
  ): Seq[Array[Byte]] = {
    val env = SparkEnv.get
    val desk = RpcUtils.makeDriverRef(name, env.conf, env.rpcEnv)
    val answer = desk.ask[Array[Array[Byte]]]((rank, message), new RpcTimeout(limitMs.millis, limit))
    while (!answer.isCompleted) {
      TaskEnd.ifKilled(context)
      try Await.ready(answer, PollMs.millis): Unit
      catch { case _: TimeoutException => () }
    }
    answer.value.fold(Seq.empty[Array[Byte]])(_.get.toSeq)
  }

  private final class Desk(val rpcEnv: RpcEnv, world: Int, arrived: Int => Unit) extends ThreadSafeRpcEndpoint {
    private val waiting = mutable.Map.empty[Int, (Array[Byte], RpcCallContext)]

    override def receiveAndReply(context: RpcCallContext): PartialFunction[Any, Unit] = {
      case (rank: Int, message: Array[Byte]) =>
        waiting(rank) = (message, context)
        arrived(rank)
        if (waiting.size == world) {
          val messages = Array.tabulate(world)(waiting(_)._1)
          waiting.values.foreach { case (_, caller) => caller.reply(messages) }
          waiting.clear()
        }
    }
  }
}
