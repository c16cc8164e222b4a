// Modes of the calling thread that regions of a program switch. Rust's half is src/shim_modes.rs. Errors as in shim.h.
#pragma once
#include <cstddef>
#include <cstdint>

extern "C" {
// What autocast does for one kind of device: whether it is on, and the type it casts to (a c10::ScalarType); and whether
// the thread keeps low-precision copies of weights in ATen's cache, which is the process's.
struct KdAutocast {
    bool enabled;
    bool cache;
    int8_t dtype;
};

// Switches the recording of gradients and returns what it was.
bool kd_set_grad_enabled(bool enabled);
// `device` counts as c10::DeviceType does.
bool kd_autocast_get(int8_t device, KdAutocast *state);
bool kd_autocast_set(int8_t device, const KdAutocast *state);
}
