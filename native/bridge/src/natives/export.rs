//! The native that writes a trained program into a stream of the JVM's.
//!
//! The archive is never whole in memory: it goes out in pieces, on the thread that called, as it is made.

use std::io::{self, BufWriter, Write};

use jni::objects::{JByteArray, JClass, JObject, JValue};
use jni::{Env, jni_sig, jni_str};
use kindling_program::{Mode, write_pt2};
use serde::Deserialize;

use super::{bytes, json, native};
use crate::error::{Failure, Throw};

/// What `programExport` takes. Unknown keys are refused.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Export {
    /// Whether the written program trains or predicts.
    mode: Mode,
}

native! { fn program_export(config: jbyte[], program: jbyte[], weights: jbyte[], out: java.io.OutputStream) }

fn program_export<'local>(
    env: &mut Env<'local>,
    _: JClass<'local>,
    config: JByteArray<'local>,
    program: JByteArray<'local>,
    weights: JByteArray<'local>,
    out: JObject<'local>,
) -> Result<(), Failure> {
    let Export { mode } = json(env, &config, "the configuration of the export")?;
    let program = bytes(env, &program, "the program")?;
    let weights = bytes(env, &weights, "the weights")?;
    if out.is_null() {
        return Err(Failure::Null { what: "the stream" });
    }
    Ok(write_pt2(program, &weights, mode, BufWriter::with_capacity(PIECE, Stream { env, out: &out }))?)
}

/// Bytes handed to the JVM at once.
const PIECE: usize = 1 << 20;
/// The array, the stream's class, and room for what jni-rs looks up beside them.
const LOCALS_PER_PIECE: usize = 16;

/// A `java.io.OutputStream`. An exception that it throws stays pending, and is what the caller of the native sees.
struct Stream<'a, 'local> {
    env: &'a Env<'local>,
    out: &'a JObject<'local>,
}

impl Write for Stream<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = bytes.get(..PIECE).unwrap_or(bytes);
        // A frame of its own: the native's frame ends only with the archive, and would collect one array a piece.
        let written = self.env.with_local_frame(LOCALS_PER_PIECE, |env| {
            let array = env.byte_array_from_slice(piece)?;
            env.call_method(
                self.out,
                jni_str!("write"),
                jni_sig!((bytes: jbyte[]) -> void),
                &[JValue::Object(&array)],
            )?;
            Ok::<(), jni::errors::Error>(())
        });
        written.map(|()| piece.len()).map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        // The stream's owner closes it.
        Ok(())
    }
}
