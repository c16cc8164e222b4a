//! Natives about pictures: bytes in, pixels of the size of a program's input out.

use jni::Env;
use jni::objects::{JByteArray, JClass};
use jni::sys::jint;
use kindling_images::{Channels, Size, from_file, from_pixels};

use super::{bytes, native};
use crate::error::{Failure, Throw};

native! { fn image_decode(encoded: jbyte[], height: jint, width: jint, channels: jint) -> jbyte[] }

fn image_decode<'local>(
    env: &mut Env<'local>,
    _: JClass<'local>,
    encoded: JByteArray<'local>,
    height: jint,
    width: jint,
    channels: jint,
) -> Result<JByteArray<'local>, Failure> {
    let encoded = bytes(env, &encoded, "the picture")?;
    let pixels = from_file(&encoded, size(height, width)?, wanted(channels)?)?;
    Ok(env.byte_array_from_slice(&pixels)?)
}

native! { fn image_resize(pixels: jbyte[], size: jint[], height: jint, width: jint, channels: jint) -> jbyte[] }

fn image_resize<'local>(
    env: &mut Env<'local>,
    _: JClass<'local>,
    pixels: JByteArray<'local>,
    from: jni::objects::JIntArray<'local>,
    height: jint,
    width: jint,
    channels: jint,
) -> Result<JByteArray<'local>, Failure> {
    let pixels = bytes(env, &pixels, "the picture")?;
    if from.is_null() {
        return Err(Failure::Null { what: "the size of the picture" });
    }
    let mut own = [0; 3];
    from.get_region(env, 0, &mut own)?;
    let [own_height, own_width, depth] = own;
    let found =
        from_pixels(&pixels, size(own_height, own_width)?, byte(depth)?, size(height, width)?, wanted(channels)?)?;
    Ok(env.byte_array_from_slice(&found)?)
}

fn size(height: jint, width: jint) -> Result<Size, Failure> {
    let pixels = |found: jint| {
        u32::try_from(found).map_err(|_| Failure::OutOfRange {
            what: "a size",
            found: found.into(),
            expected: "0 or more",
        })
    };
    Ok(Size { height: pixels(height)?, width: pixels(width)? })
}

fn byte(channels: jint) -> Result<u8, Failure> {
    u8::try_from(channels).map_err(|_| no_channels(channels))
}

fn wanted(channels: jint) -> Result<Channels, Failure> {
    Channels::of(byte(channels)?).ok_or_else(|| no_channels(channels))
}

fn no_channels(found: jint) -> Failure {
    Failure::OutOfRange { what: "the number of channels", found: found.into(), expected: "1, 3 or 4" }
}
