//! Natives about the process: set-up, capabilities, what a program is, and the self test.

use std::sync::Arc;

use jni::Env;
use jni::objects::{JByteArray, JClass};
use kindling_program::Program;
use kindling_train::{Outline, TrainingConfig};
use serde::{Deserialize, Serialize};

use super::{bytes, json, json_array, native, text};
use crate::error::{Failure, Throw};
use crate::logging;

/// What `start` takes. Unknown keys are refused.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Start {
    /// How much of the library's log reaches stderr.
    #[serde(default)]
    log_level: LogLevel,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum LogLevel {
    Off,
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl From<LogLevel> for log::LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Off => Self::Off,
            LogLevel::Error => Self::Error,
            LogLevel::Warn => Self::Warn,
            LogLevel::Info => Self::Info,
            LogLevel::Debug => Self::Debug,
            LogLevel::Trace => Self::Trace,
        }
    }
}

/// What this library is and can do.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Capabilities {
    kindling: &'static str,
    libtorch: String,
    /// What can be computed on.
    device: Vec<&'static str>,
    /// The GPUs that the driver shows to this process, by name, if this libtorch is one for GPUs.
    gpus: Vec<String>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_gpu: Option<String>,
    /// What a rank shares with each other one of its machine, for the estimate of memory.
    shared_bytes_per_peer: u64,
}

native! { fn start(config: jbyte[]) }

fn start<'local>(env: &mut Env<'local>, _: JClass<'local>, config: JByteArray<'local>) -> Result<(), Failure> {
    let config: Start = json(env, &config, "the configuration of the process")?;
    logging::set_level(config.log_level.into());
    Ok(())
}

native! { fn capabilities() -> jbyte[] }

fn capabilities<'local>(env: &mut Env<'local>, _: JClass<'local>) -> Result<JByteArray<'local>, Failure> {
    let (gpus, no_gpu) = match kindling_train::gpus() {
        Ok(gpus) => (gpus, None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let capabilities = Capabilities {
        kindling: env!("CARGO_PKG_VERSION"),
        libtorch: kindling_train::libtorch_version(),
        device: if gpus.is_empty() { vec!["cpu"] } else { vec!["cpu", "cuda"] },
        gpus,
        no_gpu,
        shared_bytes_per_peer: kindling_collective::SHARED_BYTES_PER_PEER,
    };
    json_array(env, &capabilities, "the capabilities")
}

native! { fn program_inspect(program: jbyte[]) -> jbyte[] }

fn program_inspect<'local>(
    env: &mut Env<'local>,
    _: JClass<'local>,
    program: JByteArray<'local>,
) -> Result<JByteArray<'local>, Failure> {
    let program = Program::read(Arc::from(bytes(env, &program, "the program")?))?;
    json_array(env, &program.describe(), "the description of the program")
}

native! { fn program_check(program: jbyte[], training: jbyte[]) -> jbyte[] }

fn program_check<'local>(
    env: &mut Env<'local>,
    _: JClass<'local>,
    program: JByteArray<'local>,
    training: JByteArray<'local>,
) -> Result<JByteArray<'local>, Failure> {
    let program = Program::read(Arc::from(bytes(env, &program, "the program")?))?;
    let training: TrainingConfig = json(env, &training, "the configuration of the training")?;
    json_array(env, &Outline::of(program, &training)?, "the outline of the training")
}

native! { fn self_test(what: jbyte[]) }

/// Proves from outside that a panic becomes an exception and the process lives on.
#[allow(clippy::panic, reason = "the panic is what this entry is for")]
fn self_test<'local>(env: &mut Env<'local>, _: JClass<'local>, what: JByteArray<'local>) -> Result<(), Failure> {
    match text(env, &what, "the name of the self test")?.as_str() {
        "panic" => panic!("a self test asked for this panic"),
        other => Err(Failure::UnknownSelfTest(other.to_owned())),
    }
}
