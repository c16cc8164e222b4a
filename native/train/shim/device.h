// GPUs without linking CUDA: libtorch's CUDA part is opened by name when one is asked for, what the machine has is asked of
// the driver, and streams and events go through the interfaces that the CUDA part registers. Rust's half is
// src/shim_cuda.rs. The rules of shim.h hold here too.
#pragma once
#include <cstddef>
#include <cstdint>

namespace at {
class Tensor;
}

extern "C" {
// A GPU as the driver describes it.
struct KdGpu {
    char name[256];
    uint8_t uuid[16];
    uint64_t memory; // bytes
    int32_t major, minor; // its compute capability
};

// The file of the libtorch_cpu.so in use; null if the dynamic linker does not know it.
const char *kd_torch_library();
// The GPUs that the driver shows to this process, at most `room` of them; `count` says how many there are. Fails where there is
// no driver or it does not answer.
bool kd_gpus(KdGpu *gpus, size_t room, size_t *count);
// Opens the CUDA part, for the rest of the process: once.
bool kd_cuda_open(const char *library);
// The version of the CUDA runtime that libtorch uses, 13000 for 13.0; fails before kd_cuda_open.
bool kd_cuda_version(int64_t *version);

// What a thread's work on a GPU is queued on.
struct KdQueue {
    int8_t gpu;
    int64_t stream;
};

// A stream from libtorch's pool, which is not the default one; it need not be given back.
bool kd_stream_new(int8_t gpu, int64_t *stream);
// Its cudaStream_t.
bool kd_stream_handle(const KdQueue *queue, uint64_t *handle);
// Makes GPU and stream those of this thread. Says which GPU was, and which stream on the new one; leaving puts them back.
bool kd_queue_enter(const KdQueue *queue, KdQueue *before);
bool kd_queue_leave(const KdQueue *queue, const KdQueue *before);
// Waits until all that was queued is done.
bool kd_queue_finish(const KdQueue *queue);

struct KdEvent;
// An event behind all that is queued now.
KdEvent *kd_event_record(const KdQueue *queue);
void kd_event_free(KdEvent *event);
// Whatever is queued from now on waits for the event.
bool kd_event_block(const KdEvent *event, const KdQueue *queue);
// Whether it has come; and waiting until it has.
bool kd_event_query(const KdEvent *event, bool *come);
bool kd_event_wait(const KdEvent *event);

// An uninitialised tensor in memory of the host that GPUs read and write by themselves, of the type of `like`.
at::Tensor *kd_pinned(const int64_t *sizes, size_t dims, const at::Tensor *like);
// Queues a copy on this thread's stream; between pinned memory and a GPU it returns at once.
bool kd_copy(const at::Tensor *to, const at::Tensor *from);
}
