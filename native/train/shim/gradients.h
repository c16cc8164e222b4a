// Where backward's gradients go: from autograd's own memory into places that the caller chose, and the news of it.
// Rust's half is src/shim_gradients.rs, which states who upholds what; conventions as in shim.h.
#pragma once
#include <cstddef>

namespace at {
class Tensor;
}

extern "C" {
struct KdGradients;

// Watches `count` leaves: whenever backward has computed the gradient of parameters[i], it is moved into places[i] and
// hook(context, i) is called, on the thread that backward runs on. The hook must not unwind. A place has its parameter's
// sizes, dtype and device and is never a leaf's own gradient, so a parameter's `grad` stays undefined. If adopted[i], the
// place is empty (of no elements) until then and becomes the tensor that backward made, without a copy.
KdGradients *kd_gradients_new(const at::Tensor *const *parameters, const at::Tensor *const *places,
                              const bool *adopted, size_t count, void (*hook)(void *context, size_t index),
                              void *context);
// Takes the hooks off. False if one would not come off: the object and the context must then be leaked.
bool kd_gradients_detach(KdGradients *gradients);
void kd_gradients_free(KdGradients *gradients);

// Starts a sum: the next gradient of each parameter replaces what is in its place, further ones are added to it.
// Adopted places are emptied.
bool kd_gradients_begin(KdGradients *gradients);
// From here to the next kd_gradients_begin each gradient may come once: afterwards its place may be in use elsewhere, and
// the backward that brings it again fails before it writes.
void kd_gradients_begin_last(KdGradients *gradients);
// Ends a sum: the places of parameters that no backward has reached since kd_gradients_begin become zero;
// adopted ones stay empty.
bool kd_gradients_finish(KdGradients *gradients);
}
