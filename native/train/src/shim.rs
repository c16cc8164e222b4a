//! The Rust half of the libtorch shim (`shim/shim.h`): operator calls through the dispatcher, and generators.
//!
//! Ownership: a [`Call`] and a [`Generator`] own their C++ object and free it once, on drop. Tensors cross as the heap
//! `at::Tensor` that tch holds: lent for the time of a call, or handed over to become a [`Tensor`]. No C++ exception
//! leaves the shim: each of its functions catches.
#![allow(unsafe_code, reason = "the border to the C++ shim")]

use std::ffi::{CStr, CString, c_char};
use std::ptr::NonNull;

use kindling_program::Scalar;
use tch::{Device, Tensor};
use torch_sys::C_tensor;

use crate::error::Torch;

#[repr(C)]
struct KdCall {
    _private: [u8; 0],
}
#[repr(C)]
struct KdGenerator {
    _private: [u8; 0],
}

/// A number as it crosses the border; see `shim.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct KdNumber {
    kind: u8,
    integer: i64,
    real: f64,
}

impl From<Scalar> for KdNumber {
    fn from(scalar: Scalar) -> KdNumber {
        match scalar {
            Scalar::Int(integer) => KdNumber { kind: 0, integer, real: 0.0 },
            Scalar::Float(real) => KdNumber { kind: 1, integer: 0, real },
            Scalar::Bool(truth) => KdNumber { kind: 2, integer: i64::from(truth), real: 0.0 },
        }
    }
}

impl From<KdNumber> for Scalar {
    fn from(number: KdNumber) -> Scalar {
        match number.kind {
            0 => Scalar::Int(number.integer),
            1 => Scalar::Float(number.real),
            _ => Scalar::Bool(number.integer != 0),
        }
    }
}

#[rustfmt::skip]
unsafe extern "C" {
    fn kd_last_error() -> *const c_char;
    fn kd_torch_version() -> *const c_char;
    fn kd_call_new(name: *const c_char, overload: *const c_char) -> *mut KdCall;
    fn kd_call_free(call: *mut KdCall);
    fn kd_call_is_random(call: *const KdCall) -> bool;
    fn kd_call_takes(call: *const KdCall, argument: *const c_char) -> bool;
    fn kd_call_set_none(call: *mut KdCall, argument: *const c_char) -> bool;
    fn kd_call_set_int(call: *mut KdCall, argument: *const c_char, value: i64) -> bool;
    fn kd_call_set_float(call: *mut KdCall, argument: *const c_char, value: f64) -> bool;
    fn kd_call_set_bool(call: *mut KdCall, argument: *const c_char, value: bool) -> bool;
    fn kd_call_set_string(call: *mut KdCall, argument: *const c_char, value: *const c_char) -> bool;
    fn kd_call_set_floats(call: *mut KdCall, argument: *const c_char, values: *const f64, count: usize) -> bool;
    fn kd_call_set_bools(call: *mut KdCall, argument: *const c_char, values: *const bool, count: usize) -> bool;
    fn kd_call_set_enum(call: *mut KdCall, argument: *const c_char, value: i64) -> bool;
    fn kd_call_set_device(call: *mut KdCall, argument: *const c_char, device: *const c_char) -> bool;
    fn kd_call_bind_tensor(call: *mut KdCall, argument: *const c_char) -> bool;
    fn kd_call_bind_tensors(call: *mut KdCall, argument: *const c_char, present: *const bool, count: usize) -> bool;
    fn kd_call_bind_number(call: *mut KdCall, argument: *const c_char) -> bool;
    fn kd_call_bind_numbers(call: *mut KdCall, argument: *const c_char, values: *const KdNumber, variable: *const bool, count: usize) -> bool;
    fn kd_call_run(call: *mut KdCall, tensors: *const *mut C_tensor, tensor_count: usize, numbers: *const KdNumber,
                   number_count: usize, generator: *mut KdGenerator) -> bool;
    fn kd_call_take_tensor(call: *mut KdCall, index: usize) -> *mut C_tensor;
    fn kd_call_list_length(call: *mut KdCall, index: usize, length: *mut usize) -> bool;
    fn kd_call_take_list_tensor(call: *mut KdCall, index: usize, element: usize) -> *mut C_tensor;
    fn kd_call_take_number(call: *mut KdCall, index: usize, number: *mut KdNumber) -> bool;
    fn kd_call_clear(call: *mut KdCall);
    fn kd_generator_new(seed: u64, gpu: i8) -> *mut KdGenerator;
    fn kd_generator_free(generator: *mut KdGenerator);
    fn kd_generator_clone(generator: *const KdGenerator) -> *mut KdGenerator;
    fn kd_generator_state(generator: *const KdGenerator) -> *mut C_tensor;
    fn kd_generator_set_state(generator: *mut KdGenerator, state: *const C_tensor) -> bool;
}

pub(crate) fn last_error() -> Torch {
    // SAFETY: the shim returns a NUL-terminated string of this thread, valid until its next failing call here.
    let message = unsafe { CStr::from_ptr(kd_last_error()) };
    Torch::new(&message.to_string_lossy())
}

pub(crate) fn check(done: bool) -> Result<(), Torch> {
    if done { Ok(()) } else { Err(last_error()) }
}

fn c_string(text: &str) -> Result<CString, Torch> {
    CString::new(text).map_err(|_| Torch(format!("the name {text:?} holds a NUL")))
}

/// The version of the libtorch that this library was built for, such as `2.11.0`.
pub fn libtorch_version() -> String {
    // SAFETY: a static string.
    unsafe { CStr::from_ptr(kd_torch_version()) }.to_string_lossy().into_owned()
}

/// One operator with its constant arguments set and its variable ones bound to slots; run many times.
pub(crate) struct Call(NonNull<KdCall>);

// SAFETY: a KdCall holds values of its own and no thread-local state; `&mut` keeps it to one thread at a time.
unsafe impl Send for Call {}

/// A constant argument.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Constant<'a> {
    None,
    Int(i64),
    Float(f64),
    Bool(bool),
    Str(&'a str),
    Floats(&'a [f64]),
    Bools(&'a [bool]),
    /// A dtype, layout or memory format, counted as libtorch counts them.
    Enum(i64),
    Device(&'a str),
}

impl Call {
    /// Looks the operator up, such as (`aten::add`, `Tensor`).
    pub(crate) fn new(name: &str, overload: &str) -> Result<Call, Torch> {
        let (name, overload) = (c_string(name)?, c_string(overload)?);
        // SAFETY: both strings outlive the call.
        NonNull::new(unsafe { kd_call_new(name.as_ptr(), overload.as_ptr()) }).map(Call).ok_or_else(last_error)
    }

    /// Whether it draws random numbers.
    pub(crate) fn is_random(&self) -> bool {
        // SAFETY: the call lives as long as self.
        unsafe { kd_call_is_random(self.0.as_ptr()) }
    }

    /// Whether it has an argument of that name.
    pub(crate) fn takes(&self, argument: &str) -> Result<bool, Torch> {
        let argument = c_string(argument)?;
        // SAFETY: the call lives as long as self; the name is read before the shim returns.
        Ok(unsafe { kd_call_takes(self.0.as_ptr(), argument.as_ptr()) })
    }

    pub(crate) fn set(&mut self, argument: &str, value: Constant<'_>) -> Result<(), Torch> {
        let argument = c_string(argument)?;
        let (call, name) = (self.0.as_ptr(), argument.as_ptr());
        // SAFETY: the call lives as long as self; slices and strings are copied by the shim before it returns.
        check(unsafe {
            match value {
                Constant::None => kd_call_set_none(call, name),
                Constant::Int(value) => kd_call_set_int(call, name, value),
                Constant::Float(value) => kd_call_set_float(call, name, value),
                Constant::Bool(value) => kd_call_set_bool(call, name, value),
                Constant::Str(value) => kd_call_set_string(call, name, c_string(value)?.as_ptr()),
                Constant::Floats(values) => kd_call_set_floats(call, name, values.as_ptr(), values.len()),
                Constant::Bools(values) => kd_call_set_bools(call, name, values.as_ptr(), values.len()),
                Constant::Enum(value) => kd_call_set_enum(call, name, value),
                Constant::Device(device) => kd_call_set_device(call, name, c_string(device)?.as_ptr()),
            }
        })
    }

    /// Binds an argument to the next tensor that `run` is given.
    pub(crate) fn bind_tensor(&mut self, argument: &str) -> Result<(), Torch> {
        let argument = c_string(argument)?;
        // SAFETY: the call lives as long as self; the name is read before the shim returns.
        check(unsafe { kd_call_bind_tensor(self.0.as_ptr(), argument.as_ptr()) })
    }

    /// Binds a list argument to the next tensors; `present[i] == false` stands for None.
    pub(crate) fn bind_tensors(&mut self, argument: &str, present: &[bool]) -> Result<(), Torch> {
        let argument = c_string(argument)?;
        // SAFETY: as above; the slice is copied.
        check(unsafe { kd_call_bind_tensors(self.0.as_ptr(), argument.as_ptr(), present.as_ptr(), present.len()) })
    }

    /// Binds an argument to the next number that `run` is given.
    pub(crate) fn bind_number(&mut self, argument: &str) -> Result<(), Torch> {
        let argument = c_string(argument)?;
        // SAFETY: as above.
        check(unsafe { kd_call_bind_number(self.0.as_ptr(), argument.as_ptr()) })
    }

    /// Binds a list argument: `None` takes the next number, `Some` is constant.
    pub(crate) fn bind_numbers(&mut self, argument: &str, values: &[Option<Scalar>]) -> Result<(), Torch> {
        let argument = c_string(argument)?;
        let constants: Vec<KdNumber> =
            values.iter().map(|value| value.map_or_else(KdNumber::default, Into::into)).collect();
        let variable: Vec<bool> = values.iter().map(Option::is_none).collect();
        // SAFETY: as above; both slices have `values.len()` elements and are copied.
        check(unsafe {
            kd_call_bind_numbers(
                self.0.as_ptr(),
                argument.as_ptr(),
                constants.as_ptr(),
                variable.as_ptr(),
                values.len(),
            )
        })
    }

    /// Runs the operator on the bound tensors and numbers, in the order they were bound.
    pub(crate) fn run(
        &mut self,
        tensors: &[&Tensor],
        numbers: &[Scalar],
        generator: Option<&mut Generator>,
    ) -> Result<Results<'_>, Torch> {
        let numbers: Vec<KdNumber> = numbers.iter().map(|&number| number.into()).collect();
        // Most operators take a handful of tensors: no allocation for those.
        let mut few = [std::ptr::null_mut(); 8];
        let many: Vec<*mut C_tensor>;
        let pointers: &[*mut C_tensor] = if let Some(slots) = few.get_mut(..tensors.len()) {
            for (slot, tensor) in slots.iter_mut().zip(tensors) {
                *slot = tensor.as_ptr().cast_mut();
            }
            slots
        } else {
            many = tensors.iter().map(|tensor| tensor.as_ptr().cast_mut()).collect();
            &many
        };
        let generator = generator.map_or(std::ptr::null_mut(), |generator| generator.0.as_ptr());
        // SAFETY: pointers and numbers are lent for the call; the tensors are alive (borrowed) and the shim copies the
        // handles it keeps. `&mut self` and `&mut Generator` keep other threads out.
        check(unsafe {
            kd_call_run(self.0.as_ptr(), pointers.as_ptr(), pointers.len(), numbers.as_ptr(), numbers.len(), generator)
        })?;
        Ok(Results(self))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // SAFETY: made by kd_call_new, freed once.
        unsafe { kd_call_free(self.0.as_ptr()) }
    }
}

/// What the last run returned; dropping it drops what was not taken.
pub(crate) struct Results<'a>(&'a mut Call);

impl Results<'_> {
    /// The `index`-th return value, a tensor; taken once.
    pub(crate) fn tensor(&mut self, index: usize) -> Result<Tensor, Torch> {
        // SAFETY: the call lives; a non-null result is a heap tensor that is ours from here on.
        let tensor = unsafe { kd_call_take_tensor(self.0.0.as_ptr(), index) };
        owned(tensor)
    }

    /// The `index`-th return value, a list of tensors.
    pub(crate) fn tensors(&mut self, index: usize) -> Result<Vec<Tensor>, Torch> {
        let mut length = 0;
        // SAFETY: the call lives; `length` is written on success.
        check(unsafe { kd_call_list_length(self.0.0.as_ptr(), index, &raw mut length) })?;
        (0..length)
            .map(|element| {
                // SAFETY: as for `tensor`.
                owned(unsafe { kd_call_take_list_tensor(self.0.0.as_ptr(), index, element) })
            })
            .collect()
    }

    /// The `index`-th return value, a number.
    pub(crate) fn number(&mut self, index: usize) -> Result<Scalar, Torch> {
        let mut number = KdNumber::default();
        // SAFETY: the call lives; `number` is written on success.
        check(unsafe { kd_call_take_number(self.0.0.as_ptr(), index, &raw mut number) })?;
        Ok(number.into())
    }
}

impl Drop for Results<'_> {
    fn drop(&mut self) {
        // SAFETY: the call lives.
        unsafe { kd_call_clear(self.0.0.as_ptr()) }
    }
}

pub(crate) fn owned(tensor: *mut C_tensor) -> Result<Tensor, Torch> {
    if tensor.is_null() {
        return Err(last_error());
    }
    // SAFETY: a heap tensor made by the shim and given to us; tch frees it with `delete`, as it was made with `new`.
    Ok(unsafe { Tensor::from_ptr(tensor) })
}

/// A random generator of its own for one device, seeded as `torch.Generator(device).manual_seed` does.
pub(crate) struct Generator(NonNull<KdGenerator>);

// SAFETY: plain values; `&mut` keeps it to one thread at a time.
unsafe impl Send for Generator {}

impl Generator {
    pub(crate) fn new(seed: u64, device: Device) -> Result<Generator, Torch> {
        let gpu = if let Device::Cuda(gpu) = device { i8::try_from(gpu).unwrap_or(0) } else { -1 };
        // SAFETY: takes no pointers.
        NonNull::new(unsafe { kd_generator_new(seed, gpu) }).map(Generator).ok_or_else(last_error)
    }

    /// Another generator that goes on from the same place.
    pub(crate) fn copied(&self) -> Result<Generator, Torch> {
        // SAFETY: the generator lives as long as self; the result is ours.
        NonNull::new(unsafe { kd_generator_clone(self.0.as_ptr()) }).map(Generator).ok_or_else(last_error)
    }

    /// Where it stands: the bytes of `torch.Generator.get_state()`.
    pub(crate) fn state(&self) -> Result<Vec<u8>, Torch> {
        // SAFETY: as above; a non-null result is a heap tensor that is ours from here on.
        let state = owned(unsafe { kd_generator_state(self.0.as_ptr()) })?;
        Vec::<u8>::try_from(&state).map_err(|error| Torch::new(&error.to_string()))
    }

    /// Goes on from where `state` was taken. A failure changes nothing.
    pub(crate) fn set_state(&mut self, state: &[u8]) -> Result<(), Torch> {
        let state = Tensor::f_from_slice(state).map_err(|error| Torch::new(&error.to_string()))?;
        // SAFETY: both live for the call; the shim copies.
        check(unsafe { kd_generator_set_state(self.0.as_ptr(), state.as_ptr()) })
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        // SAFETY: made by kd_generator_new, freed once.
        unsafe { kd_generator_free(self.0.as_ptr()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_gpu_s_random_numbers_is_seed_and_offset_as_pytorch_has_it() {
        let mut generator = Generator::new(5, Device::Cuda(0)).unwrap();
        let state = |seed: u64, offset: u64| [seed.to_le_bytes(), offset.to_le_bytes()].concat();
        assert_eq!(generator.state().unwrap(), state(5, 0));
        generator.set_state(&state(7, 12)).unwrap();
        assert_eq!(generator.copied().unwrap().state().unwrap(), state(7, 12));
        // Draws take four numbers at a time.
        assert!(generator.set_state(&state(9, 13)).unwrap_err().0.contains("damaged"));
        let of_cpu = Generator::new(5, Device::Cpu).unwrap();
        assert!(generator.set_state(&of_cpu.state().unwrap()).unwrap_err().0.contains("were drawn on a CPU"));
        assert_eq!(generator.state().unwrap(), state(7, 12), "a failure changes nothing");
    }
}
