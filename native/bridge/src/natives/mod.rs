//! The natives of `kindling.internal.Native`, one file per area, and how their arguments and results cross.
//!
//! Every native is declared with [`native!`], which fixes the Java class and the error policy. `native_method!`
//! below it checks the Rust function against the Java signature, exports it under its JNI name, and catches panics.
//! Arguments are copied on the way in, so nothing here holds a Java object or an array's elements across a call.

mod export;
mod images;
mod model;
mod process;
mod session;
mod shards;

use jni::Env;
use jni::objects::{JBooleanArray, JByteArray, JLongArray};
use jni::sys::{jint, jlong};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Failure;

/// Declares one native of `kindling.internal.Native` from its Java signature.
macro_rules! native {
    ($($signature:tt)*) => {
        const _: jni::NativeMethod = jni::native_method! {
            java_type = "kindling.internal.Native",
            error_policy = Throw,
            static extern $($signature)*
        };
    };
}
use native;

/// A copy of a Java array; `what` names the argument in the error for null.
fn bytes(env: &Env<'_>, array: &JByteArray<'_>, what: &'static str) -> Result<Vec<u8>, Failure> {
    if array.is_null() {
        return Err(Failure::Null { what });
    }
    Ok(env.convert_byte_array(array)?)
}

/// As [`bytes`], for an argument that may be null.
fn optional_bytes(env: &Env<'_>, array: &JByteArray<'_>) -> Result<Option<Vec<u8>>, Failure> {
    if array.is_null() { Ok(None) } else { Ok(Some(env.convert_byte_array(array)?)) }
}

/// A copy of a Java array of truth values.
fn truths(env: &Env<'_>, array: &JBooleanArray<'_>, what: &'static str) -> Result<Vec<bool>, Failure> {
    if array.is_null() {
        return Err(Failure::Null { what });
    }
    let mut found = vec![false; array.len(env)?];
    array.get_region(env, 0, &mut found)?;
    Ok(found)
}

/// Plain UTF-8 from a Java array.
fn text(env: &Env<'_>, array: &JByteArray<'_>, what: &'static str) -> Result<String, Failure> {
    String::from_utf8(bytes(env, array, what)?).map_err(|source| Failure::NotUtf8 { what, source })
}

/// A value from the JSON in a Java array.
fn json<T: DeserializeOwned>(env: &Env<'_>, array: &JByteArray<'_>, what: &'static str) -> Result<T, Failure> {
    serde_json::from_slice(&bytes(env, array, what)?).map_err(|source| Failure::Json { what, source })
}

/// A Java array with the JSON of `value`.
fn json_array<'local>(
    env: &mut Env<'local>,
    value: &impl Serialize,
    what: &'static str,
) -> Result<JByteArray<'local>, Failure> {
    let json = serde_json::to_vec(value).map_err(|source| Failure::Unwritable { what, source })?;
    Ok(env.byte_array_from_slice(&json)?)
}

/// A count from Java, which has no unsigned numbers.
fn count(found: jint, what: &'static str) -> Result<usize, Failure> {
    usize::try_from(found).map_err(|_| Failure::OutOfRange { what, found: found.into(), expected: "0 or more" })
}

/// Writes addresses into the array the caller brought, which must have a place for each.
fn put_addresses(
    env: &Env<'_>,
    array: &JLongArray<'_>,
    addresses: impl ExactSizeIterator<Item = u64>,
) -> Result<(), Failure> {
    const WHAT: &str = "the array of addresses";
    if array.is_null() {
        return Err(Failure::Null { what: WHAT });
    }
    let (found, needed) = (array.len(env)?, addresses.len());
    if found != needed {
        return Err(Failure::Addresses { what: WHAT, found, needed });
    }
    // Java's long has the same 64 bits; the sign means nothing in an address.
    let addresses: Vec<jlong> = addresses.map(u64::cast_signed).collect();
    Ok(array.set_region(env, 0, &addresses)?)
}
