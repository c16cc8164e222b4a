//! Natives about models: a program that predicts.
//!
//! A prediction runs in buffers that belong to its key, so one call at a time: a second thread is told so, it never waits.
//! Threads that predict at the same time have a key each, over one copy of the weights, which goes with the last of them.

use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use jni::Env;
use jni::objects::{JBooleanArray, JByteArray, JClass, JLongArray};
use jni::sys::{jint, jlong};
use kindling_program::Program;
use kindling_train::{Model, ModelConfig, Predictor};

use super::{bytes, count, json, native, optional_bytes, put_addresses, truths};
use crate::error::{Failure, Kind, Throw};
use crate::registry::Registry;

/// The open models. Process-wide because keys are: a key says nothing about who holds the object.
static MODELS: Registry<Open> = Registry::new("model");

/// What a key stands for.
struct Open {
    model: Arc<Model>,
    predictor: Mutex<Predictor>,
}

/// Makes a key for one more thread.
fn open(model: Arc<Model>) -> Result<jlong, Failure> {
    let predictor = Mutex::new(model.predictor()?);
    Ok(MODELS.insert(Open { model, predictor }))
}

/// The only caller of a model, or an error for a second one.
fn only_caller(model: &Open, key: jlong) -> Result<MutexGuard<'_, Predictor>, Failure> {
    model.predictor.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => Failure::InUse { kind: "model", key },
        TryLockError::Poisoned(_) => Failure::Earlier {
            kind: Kind::Native,
            message: format!("model {key} panicked in an earlier call: close it and open it again"),
        },
    })
}

native! { fn model_open(config: jbyte[], program: jbyte[], weights: jbyte[]) -> jlong }

fn model_open<'local>(
    env: &mut Env<'local>,
    _: JClass<'local>,
    config: JByteArray<'local>,
    program: JByteArray<'local>,
    weights: JByteArray<'local>,
) -> Result<jlong, Failure> {
    let config: ModelConfig = json(env, &config, "the configuration of the model")?;
    let program = Program::read(Arc::from(bytes(env, &program, "the program")?))?;
    let weights = optional_bytes(env, &weights)?;
    open(Arc::new(Model::open(config, &program, weights.as_deref())?))
}

native! { fn model_share(key: jlong) -> jlong }

fn model_share<'local>(_: &mut Env<'local>, _: JClass<'local>, key: jlong) -> Result<jlong, Failure> {
    open(Arc::clone(&MODELS.get(key)?.model))
}

native! { fn model_reserve(key: jlong, rows: jint, addresses: jlong[]) }

fn model_reserve<'local>(
    env: &mut Env<'local>,
    _: JClass<'local>,
    key: jlong,
    rows: jint,
    addresses: JLongArray<'local>,
) -> Result<(), Failure> {
    let model = MODELS.get(key)?;
    let reserved = only_caller(&model, key)?.reserve(count(rows, ROWS)?)?;
    put_addresses(env, &addresses, reserved.into_iter())
}

native! { fn model_predict(key: jlong, rows: jint, wanted: jboolean[], addresses: jlong[]) }

fn model_predict<'local>(
    env: &mut Env<'local>,
    _: JClass<'local>,
    key: jlong,
    rows: jint,
    wanted: JBooleanArray<'local>,
    addresses: JLongArray<'local>,
) -> Result<(), Failure> {
    let model = MODELS.get(key)?;
    let wanted = truths(env, &wanted, "the array of wanted results")?;
    let results = only_caller(&model, key)?.predict(count(rows, ROWS)?, &wanted)?;
    put_addresses(env, &addresses, results.into_iter())
}

native! { fn model_close(key: jlong) }

fn model_close<'local>(_: &mut Env<'local>, _: JClass<'local>, key: jlong) -> Result<(), Failure> {
    // A call still inside the model keeps it alive until it returns.
    drop(MODELS.remove(key));
    Ok(())
}

const ROWS: &str = "the number of rows";
