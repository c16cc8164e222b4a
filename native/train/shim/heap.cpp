#include "heap.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/alignment.h>
#include <c10/util/Exception.h>

namespace {

// What libtorch gives, but from `malloc`. Its own allocator asks `posix_memalign`, which glibc (before 2.41) serves past the
// cache of each thread, and from a block that is larger by the alignment, whose rest it puts back: a hole for each tensor.
// Here a block is larger by the alignment, for good, and says in front of the data where it begins.
struct Heap final : c10::Allocator {
    static constexpr size_t extra = c10::gAlignment + sizeof(void *);

    static void release(void *data) {
        if (data != nullptr) {
            std::free(static_cast<void **>(data)[-1]);
        }
    }

    static void *aligned(size_t bytes) {
        void *block = bytes <= PTRDIFF_MAX - extra ? std::malloc(bytes + extra) : nullptr;
        TORCH_CHECK(block != nullptr, "there is no memory for a tensor of ", bytes, " bytes");
        const auto first = reinterpret_cast<uintptr_t>(block) + sizeof(void *);
        auto *data = reinterpret_cast<void **>((first + c10::gAlignment - 1) / c10::gAlignment * c10::gAlignment);
        data[-1] = block;
        return data;
    }

    c10::DataPtr allocate(size_t bytes) override {
        void *data = bytes == 0 ? nullptr : aligned(bytes);
        return {data, data, &release, c10::Device(c10::DeviceType::CPU)};
    }

    c10::DeleterFnPtr raw_deleter() const override { return &release; }

    void copy_data(void *to, const void *from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};

} // namespace

extern "C" {

// Above libtorch's own, which has 0. Never destroyed: at the end of the process other threads may still ask it.
void kd_heap_install() { c10::SetCPUAllocator(new Heap, 1); }
}
