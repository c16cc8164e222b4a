#include "device.h"
#include "engine.h"
#include "guarded.h"
#include "hooks.h"

#include <ATen/Functions.h>
#include <ATen/Context.h>
#include <c10/core/Event.h>
#include <c10/core/GradMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include <memory>
#include <type_traits>

namespace {

// The driver's own interface, whose functions and numbers do not change.
using Code = int;

struct Driver {
    Code (*init)(unsigned);
    Code (*count)(int *);
    Code (*get)(int *, int);
    Code (*name)(char *, int, int);
    Code (*uuid)(uint8_t *, int);
    Code (*memory)(size_t *, int);
    Code (*attribute)(int *, int, int);
    Code (*error)(Code, const char **);

    Driver() {
        // Never closed: libtorch uses it too.
        auto *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
        TORCH_CHECK(library != nullptr, "there is no NVIDIA driver here (", dlerror(), ")");
        auto find = [&](auto &function, const char *symbol) {
            function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, symbol));
            TORCH_CHECK(function != nullptr, "the NVIDIA driver has no ", symbol, ": it is too old");
        };
        find(init, "cuInit");
        find(count, "cuDeviceGetCount");
        find(get, "cuDeviceGet");
        find(name, "cuDeviceGetName");
        find(uuid, "cuDeviceGetUuid");
        find(memory, "cuDeviceTotalMem_v2");
        find(attribute, "cuDeviceGetAttribute");
        find(error, "cuGetErrorString");
        done(init(0), "cuInit");
    }

    void done(Code code, const char *what) const {
        if (code != 0) {
            const char *meaning = nullptr;
            error(code, &meaning);
            TORCH_CHECK(false, "the NVIDIA driver answers ", what, " with ", code, " (",
                        meaning != nullptr ? meaning : "unknown", ")");
        }
    }
};

// CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
constexpr int capability_major = 75, capability_minor = 76;

c10::impl::VirtualGuardImpl cuda() { return c10::impl::VirtualGuardImpl(c10::kCUDA); }

c10::Device device(int8_t gpu) { return c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(gpu)); }

c10::Stream stream(const KdQueue &queue) {
    return c10::Stream(c10::Stream::UNSAFE, device(queue.gpu), queue.stream);
}

} // namespace

struct KdEvent {
    c10::Event event{c10::kCUDA};
};

extern "C" {

const char *kd_torch_library() {
    Dl_info info{};
    // Any function of libtorch_cpu.so.
    auto *function = reinterpret_cast<void *>(&at::globalContext);
    return dladdr(function, &info) != 0 ? info.dli_fname : nullptr;
}

bool kd_gpus(KdGpu *gpus, size_t room, size_t *count) {
    return guarded(false, [&] {
        static const Driver driver;
        int there = 0;
        driver.done(driver.count(&there), "cuDeviceGetCount");
        *count = static_cast<size_t>(there);
        for (int i = 0; i < there && static_cast<size_t>(i) < room; ++i) {
            auto &gpu = gpus[i];
            int ordinal = 0;
            size_t memory = 0;
            driver.done(driver.get(&ordinal, i), "cuDeviceGet");
            driver.done(driver.name(gpu.name, sizeof(gpu.name), ordinal), "cuDeviceGetName");
            driver.done(driver.uuid(gpu.uuid, ordinal), "cuDeviceGetUuid");
            driver.done(driver.memory(&memory, ordinal), "cuDeviceTotalMem");
            driver.done(driver.attribute(&gpu.major, capability_major, ordinal), "cuDeviceGetAttribute");
            driver.done(driver.attribute(&gpu.minor, capability_minor, ordinal), "cuDeviceGetAttribute");
            gpu.memory = memory;
        }
        return true;
    });
}

bool kd_cuda_open(const char *library) {
    return guarded(false, [&] {
        // Never closed: its kernels are registered with the dispatcher.
        TORCH_CHECK(dlopen(library, RTLD_NOW | RTLD_LOCAL) != nullptr, dlerror());
        use_cuda_hooks();
        TORCH_CHECK(at::detail::getCUDAHooks().hasCUDART(), "libtorch does not find the CUDA part that was opened");
        // An engine that has run a backward before knows of no GPU.
        renew_engine();
        // float32 is float32. PyTorch lets convolutions round to 10 bits by default.
        at::globalContext().setAllowTF32CuDNN(false);
        return true;
    });
}

bool kd_cuda_version(int64_t *version) {
    return guarded(false, [&] {
        *version = at::detail::getCUDAHooks().versionCUDART();
        return true;
    });
}

bool kd_stream_new(int8_t gpu, int64_t *stream) {
    return guarded(false, [&] {
        *stream = cuda().getStreamFromGlobalPool(device(gpu)).id();
        return true;
    });
}
bool kd_stream_handle(const KdQueue *queue, uint64_t *handle) {
    return guarded(false, [&] {
        *handle = reinterpret_cast<uint64_t>(cuda().getStreamNativeHandle(stream(*queue)));
        return true;
    });
}
bool kd_queue_enter(const KdQueue *queue, KdQueue *before) {
    return guarded(false, [&] {
        auto guard = cuda();
        before->gpu = guard.exchangeDevice(device(queue->gpu)).index();
        before->stream = guard.exchangeStream(stream(*queue)).id();
        return true;
    });
}
bool kd_queue_leave(const KdQueue *queue, const KdQueue *before) {
    return guarded(false, [&] {
        auto guard = cuda();
        guard.exchangeStream(stream(KdQueue{queue->gpu, before->stream}));
        guard.setDevice(device(before->gpu));
        return true;
    });
}
bool kd_queue_finish(const KdQueue *queue) {
    return guarded(false, [&] {
        cuda().synchronizeStream(stream(*queue));
        return true;
    });
}

KdEvent *kd_event_record(const KdQueue *queue) {
    return guarded<KdEvent *>(nullptr, [&] {
        auto event = std::make_unique<KdEvent>();
        event->event.record(stream(*queue));
        return event.release();
    });
}
void kd_event_free(KdEvent *event) { delete event; }
bool kd_event_block(const KdEvent *event, const KdQueue *queue) {
    return guarded(false, [&] {
        event->event.block(stream(*queue));
        return true;
    });
}
bool kd_event_query(const KdEvent *event, bool *come) {
    return guarded(false, [&] {
        *come = event->event.query();
        return true;
    });
}
bool kd_event_wait(const KdEvent *event) {
    return guarded(false, [&] {
        event->event.synchronize();
        return true;
    });
}

at::Tensor *kd_pinned(const int64_t *sizes, size_t dims, const at::Tensor *like) {
    return guarded<at::Tensor *>(nullptr, [&] {
        auto options = at::TensorOptions().dtype(like->scalar_type()).device(at::kCPU).pinned_memory(true);
        return new at::Tensor(at::empty(at::IntArrayRef(sizes, dims), options));
    });
}
bool kd_copy(const at::Tensor *to, const at::Tensor *from) {
    return guarded(false, [&] {
        c10::NoGradGuard no_graph;
        to->copy_(*from, true);
        return true;
    });
}
}
