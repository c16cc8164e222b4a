//! Natives about shards: the store that an ingest fills and that sessions read.
//!
//! A shard's key is the store's own; the store knows what is open, sealed or gone and says so in its errors.

use std::sync::{Arc, OnceLock};

use jni::Env;
use jni::objects::{JByteArray, JClass, JLongArray};
use jni::sys::{jint, jlong};
use kindling_shards::{ServeSpec, ShardSpec, ShardStore, Split};
use kindling_train::ShardRef;

use super::{count, json, json_array, native, put_addresses, text};
use crate::error::{Failure, Throw};

/// The shards of this process. Process-wide because the tasks of one Spark job fill it and those of the next job read
/// it: nothing else of ours lives in an executor between two jobs.
static STORE: OnceLock<Arc<ShardStore>> = OnceLock::new();

/// The store, made at its first use.
pub(super) fn store() -> &'static Arc<ShardStore> {
    STORE.get_or_init(ShardStore::new)
}

native! { fn shard_open(spec: jbyte[]) -> jlong }

fn shard_open<'local>(env: &mut Env<'local>, _: JClass<'local>, spec: JByteArray<'local>) -> Result<jlong, Failure> {
    let spec: ShardSpec = json(env, &spec, "the specification of the shard")?;
    Ok(store().open(spec)?.cast_signed())
}

native! { fn shard_reserve(key: jlong, split: jint, rows: jint, addresses: jlong[]) }

fn shard_reserve<'local>(
    env: &mut Env<'local>,
    _: JClass<'local>,
    key: jlong,
    split: jint,
    rows: jint,
    addresses: JLongArray<'local>,
) -> Result<(), Failure> {
    let (key, split) = (shard(key)?, Split::try_from(split)?);
    let reserved = store().reserve(key, split, count(rows, ROWS)?)?;
    put_addresses(env, &addresses, reserved.into_iter()).inspect_err(|_| {
        // Nobody learned the addresses: take the loan back, so that a failed call leaves no reservation behind.
        if let Err(error) = store().commit(key, split, 0) {
            log::warn!("a reservation nobody has addresses of could not be taken back: {error}");
        }
    })
}

native! { fn shard_commit(key: jlong, split: jint, rows: jint) }

fn shard_commit<'local>(
    _: &mut Env<'local>,
    _: JClass<'local>,
    key: jlong,
    split: jint,
    rows: jint,
) -> Result<(), Failure> {
    Ok(store().commit(shard(key)?, Split::try_from(split)?, count(rows, ROWS)?)?)
}

native! { fn shard_close(key: jlong) -> jbyte[] }

fn shard_close<'local>(env: &mut Env<'local>, _: JClass<'local>, key: jlong) -> Result<JByteArray<'local>, Failure> {
    let report = store().close(shard(key)?)?;
    json_array(env, &report, "the report of the shard")
}

native! { fn shard_serve(config: jbyte[]) -> jbyte[] }

fn shard_serve<'local>(
    env: &mut Env<'local>,
    _: JClass<'local>,
    config: JByteArray<'local>,
) -> Result<JByteArray<'local>, Failure> {
    let spec: ServeSpec = json(env, &config, "the configuration of the server")?;
    let endpoint = store().serve(spec)?;
    json_array(env, &endpoint, "the endpoint of the server")
}

native! { fn shard_discard(key: jlong) }

fn shard_discard<'local>(_: &mut Env<'local>, _: JClass<'local>, key: jlong) -> Result<(), Failure> {
    // Discarding what is not there is fine, and a key below 1 never is.
    if let Ok(key) = shard(key) {
        store().discard(key);
    }
    Ok(())
}

/// The shards of a run that the driver chose.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Kept {
    run: String,
    keys: Vec<u64>,
}

native! { fn shard_retain(kept: jbyte[]) -> jint }

fn shard_retain<'local>(env: &mut Env<'local>, _: JClass<'local>, kept: JByteArray<'local>) -> Result<jint, Failure> {
    let kept: Kept = json(env, &kept, "the shards to keep")?;
    Ok(jint::try_from(store().retain(&kept.run, &kept.keys)).unwrap_or(jint::MAX))
}

/// Where the partitions of a run lie, and in which process each rank would run.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Placed {
    shards: Vec<ShardRef>,
    processes: Vec<String>,
}

native! { fn shard_moves(placed: jbyte[]) -> jbyte[] }

fn shard_moves<'local>(
    env: &mut Env<'local>,
    _: JClass<'local>,
    placed: JByteArray<'local>,
) -> Result<JByteArray<'local>, Failure> {
    let placed: Placed = json(env, &placed, "where shards and ranks are")?;
    let processes: Vec<&str> = placed.processes.iter().map(String::as_str).collect();
    json_array(env, &kindling_train::moves(&placed.shards, &processes)?, "the rows that move")
}

native! { fn shard_release(run: jbyte[]) -> jint }

fn shard_release<'local>(env: &mut Env<'local>, _: JClass<'local>, run: JByteArray<'local>) -> Result<jint, Failure> {
    let released = store().release(&text(env, &run, "the run")?);
    Ok(jint::try_from(released).unwrap_or(jint::MAX))
}

/// What the store of this process holds, of all runs.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Usage {
    shards: usize,
    bytes: usize,
    spare_bytes: usize,
    spilled_bytes: usize,
}

native! { fn shard_usage() -> jbyte[] }

fn shard_usage<'local>(env: &mut Env<'local>, _: JClass<'local>) -> Result<JByteArray<'local>, Failure> {
    let store = store();
    let usage = Usage {
        shards: store.shards(),
        bytes: store.bytes(),
        spare_bytes: store.spare_bytes(),
        spilled_bytes: store.spilled_bytes(),
    };
    json_array(env, &usage, "the usage of the store")
}

const ROWS: &str = "the number of rows";

/// The store's key, which is never 0 or negative.
fn shard(key: jlong) -> Result<u64, Failure> {
    u64::try_from(key).ok().filter(|key| *key != 0).ok_or(Failure::NotOpen { kind: "shard", key })
}
