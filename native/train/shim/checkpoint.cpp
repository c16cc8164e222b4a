// Checkpointing by hooks on what autograd saves, as torch.utils.checkpoint(use_reentrant=False) does it: the graph is the
// one that would be there without, so gradients have the same bits, are accumulated in the same order, and every
// parameter's hook fires once. Running a segment inside an autograd::Function of its own would sum the gradients of a value
// that is used in several segments in another order.
#include "checkpoint.h"
#include "engine.h"
#include "guarded.h"

#include <ATen/autocast_mode.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/saved_variable_hooks.h>

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

namespace {

// Which autocast operators run in, for the thread that has it.
struct Autocast {
    static constexpr std::array<at::DeviceType, 2> devices{at::kCPU, at::kCUDA};
    std::array<bool, 2> enabled;
    std::array<at::ScalarType, 2> dtype;
    bool cache;

    static Autocast current() {
        Autocast state;
        for (size_t i = 0; i < devices.size(); ++i) {
            state.enabled[i] = at::autocast::is_autocast_enabled(devices[i]);
            state.dtype[i] = at::autocast::get_autocast_dtype(devices[i]);
        }
        state.cache = at::autocast::is_autocast_cache_enabled();
        return state;
    }
    void apply() const {
        for (size_t i = 0; i < devices.size(); ++i) {
            at::autocast::set_autocast_enabled(devices[i], enabled[i]);
            at::autocast::set_autocast_dtype(devices[i], dtype[i]);
        }
        at::autocast::set_autocast_cache_enabled(cache);
    }
};

struct AutocastGuard {
    Autocast before = Autocast::current();

    explicit AutocastGuard(const Autocast &within) { within.apply(); }
    ~AutocastGuard() { before.apply(); }
};

struct Shape {
    at::ScalarType dtype;
    std::vector<int64_t> sizes;

    explicit Shape(const at::Tensor &tensor) : dtype(tensor.scalar_type()), sizes(tensor.sizes().vec()) {}
    bool operator==(const Shape &other) const { return dtype == other.dtype && sizes == other.sizes; }
};

struct Recalled {
    at::Tensor tensor;
    uint32_t version;
};

struct Frame {
    void *context;
    bool (*recompute)(void *);
    void (*release)(void *);
    Autocast autocast = Autocast::current();
    std::vector<Shape> forgotten;
    std::vector<Recalled> recalled;
    bool asked = false;

    Frame(void *c, bool (*r)(void *), void (*f)(void *)) : context(c), recompute(r), release(f) {}
    Frame(const Frame &) = delete;
    ~Frame() { release(context); }

    at::Tensor take(size_t index);
};

// What becomes of what operators of this thread save: at most one of the two is set. Per thread, as ranks that share the
// process run at once.
thread_local std::shared_ptr<Frame> forgetting;
thread_local Frame *recalling = nullptr;

struct Recalling {
    explicit Recalling(Frame *frame) { recalling = frame; }
    ~Recalling() { recalling = nullptr; }
};

at::Tensor Frame::take(size_t index) {
    if (!asked) {
        asked = true;
        TORCH_CHECK(!recalling && !forgetting, "a segment was asked for while another one ran");
        Recalling mode(this);
        at::AutoGradMode grad(true);
        AutocastGuard cast(autocast);
        TORCH_CHECK(recompute(context), "a segment could not be run again");
        TORCH_CHECK(recalled.size() >= forgotten.size(), "running a segment again saved ", recalled.size(),
                    " tensors for backward and the first time ", forgotten.size());
    }
    auto &found = recalled.at(index);
    TORCH_CHECK(found.tensor.defined(), "a value of a segment was needed twice by one backward, or its recomputation failed");
    TORCH_CHECK(Shape(found.tensor) == forgotten.at(index), "running a segment again saved a tensor of another shape");
    TORCH_CHECK(found.tensor._version() == found.version,
                "one of the values needed for gradients was modified in place after it was saved");
    // Moved out, so that it is freed as soon as its node is done with it.
    return std::move(found.tensor);
}

struct Forgetting final : torch::autograd::SavedVariableHooks {
    std::shared_ptr<Frame> frame;
    size_t index = 0;

    explicit Forgetting(std::shared_ptr<Frame> f) : frame(std::move(f)) {}
    void call_pack_hook(const at::Tensor &tensor) override {
        index = frame->forgotten.size();
        frame->forgotten.emplace_back(tensor);
    }
    at::Tensor call_unpack_hook() override { return frame->take(index); }
};

// For the graph of a recomputation, which nobody walks: it lives until the callback returns.
struct Recording final : torch::autograd::SavedVariableHooks {
    void call_pack_hook(const at::Tensor &tensor) override {
        // Without its history, which would keep that graph alive.
        auto kept = tensor.detach();
        auto version = static_cast<uint32_t>(kept._version());
        recalling->recalled.push_back(Recalled{std::move(kept), version});
    }
    at::Tensor call_unpack_hook() override { TORCH_CHECK(false, "the graph of a recomputation has no backward"); }
};

// Autograd asks its engine which hooks what is saved now gets: Python's engine answers for Python, this one for us. It is
// otherwise the plain engine.
struct Engine final : torch::autograd::Engine {
    std::unique_ptr<torch::autograd::SavedVariableHooks> get_default_saved_variable_hooks() override {
        if (forgetting) {
            return std::make_unique<Forgetting>(forgetting);
        }
        if (recalling != nullptr) {
            return std::make_unique<Recording>();
        }
        return nullptr;
    }

    // Never freed: threads may still run backward when the process ends, or when another one takes its place.
    static std::atomic<Engine *> &current() {
        static std::atomic<Engine *> engine{new Engine};
        return engine;
    }
    static torch::autograd::Engine &get() { return *current().load(); }
};

} // namespace

void use_engine() {
    static std::once_flag once;
    std::call_once(once, [] { torch::autograd::set_default_engine_stub(Engine::get); });
}

void renew_engine() {
    Engine::current().store(new Engine);
    use_engine();
}

struct KdFrame {
    std::shared_ptr<Frame> frame;
};

extern "C" {

KdFrame *kd_frame_enter(void *context, bool (*recompute)(void *), void (*release)(void *)) {
    return guarded<KdFrame *>(nullptr, [&] {
        auto frame = std::make_shared<Frame>(context, recompute, release);
        use_engine();
        TORCH_CHECK(!recalling && !forgetting, "segments do not nest");
        auto *handle = new KdFrame{frame};
        forgetting = std::move(frame);
        return handle;
    });
}
void kd_frame_leave(KdFrame *frame) {
    forgetting.reset();
    delete frame;
}
bool kd_frame_complete() { return recalling != nullptr && recalling->recalled.size() >= recalling->forgotten.size(); }
}
