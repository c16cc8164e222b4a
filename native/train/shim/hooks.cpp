// libtorch looks for the hooks of its CUDA part at their first use and keeps what it finds. That first use comes with the first
// convolution on a CPU, so a process that has computed on its processor could never use a GPU afterwards. What libtorch is
// given here instead answers as if there were no CUDA until the CUDA part is opened, and hands on to it from then on.
//
// It is registered below the priority of the CUDA part: if that one is there first, libtorch finds it directly. The functions
// are all of CUDAHooksInterface and AcceleratorHooksInterface in libtorch 2.11; another version may have others.
#include "hooks.h"

#include <ATen/detail/CUDAHooksInterface.h>

#include <atomic>

namespace {

std::atomic<const at::CUDAHooksInterface *> opened{nullptr};

const at::CUDAHooksInterface &hooks() {
    static const at::CUDAHooksInterface none;
    const auto *found = opened.load();
    return found != nullptr ? *found : none;
}

#define HAND_ON(result, name, parameters, arguments)                                                                         \
    result name parameters const override { return hooks().name arguments; }

struct LateHooks final : at::CUDAHooksInterface {
    explicit LateHooks(at::CUDAHooksArgs) {}

    HAND_ON(bool, isBuilt, (), ())
    HAND_ON(bool, isAvailable, (), ())
    HAND_ON(bool, hasPrimaryContext, (at::DeviceIndex device), (device))
    HAND_ON(void, init, (), ())
    HAND_ON(at::DeviceIndex, deviceCount, (), ())
    HAND_ON(void, setCurrentDevice, (at::DeviceIndex device), (device))
    HAND_ON(at::DeviceIndex, getCurrentDevice, (), ())
    HAND_ON(at::DeviceIndex, exchangeDevice, (at::DeviceIndex device), (device))
    HAND_ON(at::DeviceIndex, maybeExchangeDevice, (at::DeviceIndex device), (device))
    HAND_ON(bool, isPinnedPtr, (const void *data), (data))
    HAND_ON(at::Allocator *, getPinnedMemoryAllocator, (), ())
    HAND_ON(at::Device, getDeviceFromPtr, (void *data), (data))
    HAND_ON(const at::Generator &, getDefaultGenerator, (at::DeviceIndex device), (device))
    HAND_ON(at::Generator, getNewGenerator, (at::DeviceIndex device), (device))

    HAND_ON(bool, hasCUDA, (), ())
    HAND_ON(bool, hasCUDART, (), ())
    HAND_ON(bool, hasMAGMA, (), ())
    HAND_ON(bool, hasCuDNN, (), ())
    HAND_ON(bool, hasCuSOLVER, (), ())
    HAND_ON(bool, hasCuBLASLt, (), ())
    HAND_ON(bool, hasROCM, (), ())
    HAND_ON(bool, hasCKSDPA, (), ())
    HAND_ON(bool, hasCKGEMM, (), ())
    HAND_ON(const at::cuda::NVRTC &, nvrtc, (), ())
    HAND_ON(at::DeviceIndex, current_device, (), ())
    HAND_ON(at::Allocator *, getCUDADeviceAllocator, (), ())
    HAND_ON(bool, compiledWithCuDNN, (), ())
    HAND_ON(bool, compiledWithMIOpen, (), ())
    HAND_ON(bool, supportsDilatedConvolutionWithCuDNN, (), ())
    HAND_ON(bool, supportsDepthwiseConvolutionWithCuDNN, (), ())
    HAND_ON(bool, supportsBFloat16ConvolutionWithCuDNNv8, (), ())
    HAND_ON(bool, supportsBFloat16RNNWithCuDNN, (), ())
    HAND_ON(long, versionCuDNN, (), ())
    HAND_ON(long, versionRuntimeCuDNN, (), ())
    HAND_ON(long, versionCuDNNFrontend, (), ())
    HAND_ON(long, versionMIOpen, (), ())
    HAND_ON(long, versionHipBLASLt, (), ())
    HAND_ON(long, versionCUDART, (), ())
    HAND_ON(std::string, showConfig, (), ())
    HAND_ON(double, batchnormMinEpsilonCuDNN, (), ())
    HAND_ON(int64_t, cuFFTGetPlanCacheMaxSize, (at::DeviceIndex device), (device))
    HAND_ON(void, cuFFTSetPlanCacheMaxSize, (at::DeviceIndex device, int64_t size), (device, size))
    HAND_ON(int64_t, cuFFTGetPlanCacheSize, (at::DeviceIndex device), (device))
    HAND_ON(void, cuFFTClearPlanCache, (at::DeviceIndex device), (device))
    HAND_ON(int, getNumGPUs, (), ())
    HAND_ON(void, deviceSynchronize, (at::DeviceIndex device), (device))
};

#undef HAND_ON

// When the library is loaded, before anything can ask.
const bool registered = [] {
    at::CUDAHooksRegistry()->Register(
        "CUDAHooks", [](at::CUDAHooksArgs args) { return std::make_unique<LateHooks>(args); }, c10::REGISTRY_FALLBACK);
    return true;
}();

} // namespace

void use_cuda_hooks() {
    if (opened.load() != nullptr) {
        return;
    }
    auto found = at::CUDAHooksRegistry()->Create("CUDAHooks", at::CUDAHooksArgs{});
    // Where the CUDA part has not registered itself, this is another LateHooks, and would ask itself for ever.
    if (found != nullptr && dynamic_cast<LateHooks *>(found.get()) == nullptr) {
        opened.store(found.release()); // for the process
    }
}
