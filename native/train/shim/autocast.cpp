// What regions of a program switch for the calling thread: whether gradients are recorded, and autocast.
#include "autocast.h"
#include "guarded.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>

namespace {

c10::DeviceType device_type(int8_t device) { return static_cast<c10::DeviceType>(device); }

} // namespace

extern "C" {

bool kd_set_grad_enabled(bool enabled) {
    bool before = at::GradMode::is_enabled();
    at::GradMode::set_enabled(enabled);
    return before;
}

bool kd_autocast_get(int8_t device, KdAutocast *state) {
    return guarded(false, [&] {
        auto type = device_type(device);
        *state = KdAutocast{at::autocast::is_autocast_enabled(type), at::autocast::is_autocast_cache_enabled(),
                            static_cast<int8_t>(at::autocast::get_autocast_dtype(type))};
        return true;
    });
}
bool kd_autocast_set(int8_t device, const KdAutocast *state) {
    return guarded(false, [&] {
        auto type = device_type(device);
        at::autocast::set_autocast_enabled(type, state->enabled);
        at::autocast::set_autocast_dtype(type, static_cast<at::ScalarType>(state->dtype));
        at::autocast::set_autocast_cache_enabled(state->cache);
        return true;
    });
}
}
