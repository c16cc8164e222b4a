package org.apache.spark.ml.kindling

import org.apache.spark.{SparkConf, SparkEnv}
import org.apache.spark.rpc.{RpcEndpointRef, RpcEnv, ThreadSafeRpcEndpoint}
import org.apache.spark.util.RpcUtils

/**
 * A one-way channel from tasks to the driver, over the RPC that Spark has open anyway (and authenticates and encrypts as it is
 * configured). Accumulators would arrive with the heartbeats only, every ten seconds.
 *
 * What travels are plain byte arrays: Spark's RPC deserializes without the application's class loader.
 */
final class EventChannel private (env: RpcEnv, endpoint: RpcEndpointRef) extends AutoCloseable {

  /** Nothing is received any more. */
  override def close(): Unit = env.stop(endpoint)
}

object EventChannel {

  /** Opens the driver's end. `receive` is called for one message at a time, on a thread of Spark's: it must be quick and not throw. */
  def open(name: String)(receive: Array[Byte] => Unit): EventChannel = {
    val env = SparkEnv.get.rpcEnv
    new EventChannel(env, env.setupEndpoint(name, new Receiver(env, receive)))
  }

  /** A task's end; messages are sent and not waited for. */
  def sender(name: String): Array[Byte] => Unit = {
    val conf: SparkConf = SparkEnv.get.conf
    val driver = RpcUtils.makeDriverRef(name, conf, SparkEnv.get.rpcEnv)
    message => driver.send(message)
  }

  private final class Receiver(val rpcEnv: RpcEnv, handle: Array[Byte] => Unit) extends ThreadSafeRpcEndpoint {
    override def receive: PartialFunction[Any, Unit] = { case message: Array[Byte] => handle(message) }
  }
}
