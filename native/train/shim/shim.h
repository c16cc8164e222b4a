// What tch 0.24 lacks of libtorch, as a C interface. Rust's half is src/shim.rs, which states who upholds what.
//
// Every function that can fail returns false or a null pointer and leaves one sentence in kd_last_error() of the
// calling thread; no C++ exception and no Rust panic crosses this border. Tensors are `at::Tensor *` as tch holds them.
#pragma once
#include <cstddef>
#include <cstdint>

namespace at {
class Tensor;
}

extern "C" {
struct KdCall;
struct KdGenerator;

// A number: the kind says which of the other two counts.
struct KdNumber {
    uint8_t kind; // 0: integer, 1: real, 2: a truth value, as integer 0 or 1
    int64_t integer;
    double real;
};

// The sentence of the last failure on this thread; valid until the next failing call.
const char *kd_last_error();
// libtorch's own version, "2.11.0".
const char *kd_torch_version();

// A call of one operator: its constant arguments are set once, its variable ones are bound to slots, and it is run many
// times. Not thread safe. Arguments left alone take the schema's default; running without one that has none fails.
KdCall *kd_call_new(const char *name, const char *overload);
void kd_call_free(KdCall *call);
// Whether the operator draws from the process's default generator.
bool kd_call_is_random(const KdCall *call);
// Whether it has an argument of that name.
bool kd_call_takes(const KdCall *call, const char *argument);

bool kd_call_set_none(KdCall *call, const char *argument);
bool kd_call_set_int(KdCall *call, const char *argument, int64_t value);
bool kd_call_set_float(KdCall *call, const char *argument, double value);
bool kd_call_set_bool(KdCall *call, const char *argument, bool value);
bool kd_call_set_string(KdCall *call, const char *argument, const char *value);
bool kd_call_set_floats(KdCall *call, const char *argument, const double *values, size_t count);
bool kd_call_set_bools(KdCall *call, const char *argument, const bool *values, size_t count);
// `value` counts as c10::ScalarType, c10::Layout and c10::MemoryFormat do.
bool kd_call_set_enum(KdCall *call, const char *argument, int64_t value);
bool kd_call_set_device(KdCall *call, const char *argument, const char *device);

// Binds an argument to the next tensor(s) or number(s) given to kd_call_run, in the order of the bind calls.
bool kd_call_bind_tensor(KdCall *call, const char *argument);
// A list of tensors; `present[i]` false stands for None and takes no tensor.
bool kd_call_bind_tensors(KdCall *call, const char *argument, const bool *present, size_t count);
bool kd_call_bind_number(KdCall *call, const char *argument);
// A list of integers or floats: `variable[i]` true takes the next number, false takes values[i].
bool kd_call_bind_numbers(KdCall *call, const char *argument, const KdNumber *values, const bool *variable, size_t count);

// Runs the operator. With a generator, random draws come from it instead of the process's default one.
bool kd_call_run(KdCall *call, at::Tensor *const *tensors, size_t tensor_count, const KdNumber *numbers, size_t number_count,
                 KdGenerator *generator);
// The results of the last run, taken in order: a tensor that the caller owns; a list's length and then its tensors; a number.
at::Tensor *kd_call_take_tensor(KdCall *call, size_t index);
bool kd_call_list_length(KdCall *call, size_t index, size_t *length);
at::Tensor *kd_call_take_list_tensor(KdCall *call, size_t index, size_t element);
bool kd_call_take_number(KdCall *call, size_t index, KdNumber *number);
// Drops what is left of the last run.
void kd_call_clear(KdCall *call);

// A generator of its own: torch.Generator(device).manual_seed(seed), for the CPU (`gpu` -1) or a GPU.
KdGenerator *kd_generator_new(uint64_t seed, int8_t gpu);
void kd_generator_free(KdGenerator *generator);
// Another one that goes on from the same place.
KdGenerator *kd_generator_clone(const KdGenerator *generator);
// Its state as torch.Generator.get_state() gives it, a tensor of bytes that the caller owns; and back. A state of another
// kind or length fails and changes nothing.
at::Tensor *kd_generator_state(const KdGenerator *generator);
bool kd_generator_set_state(KdGenerator *generator, const at::Tensor *state);
}
