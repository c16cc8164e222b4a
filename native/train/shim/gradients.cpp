#include "gradients.h"
#include "guarded.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

struct KdGradients {
    std::vector<at::Tensor> parameters;
    std::vector<at::Tensor> places;
    std::vector<uint8_t> adopted; // places that become the gradient, instead of being filled with it
    std::vector<uint8_t> reached; // since kd_gradients_begin
    std::vector<uint8_t> seen;    // since kd_gradients_begin_last
    bool last = false;
    void (*hook)(void *, size_t);
    void *context;

    // Between steps a parameter has no `grad`, so autograd hands over the tensor that the kernel wrote, without adding
    // or copying: one copy from a warm cache is all that a flat gradient costs, and nothing is cleared beforehand. A place
    // that adopts takes the tensor itself, unless it is a view of what another one has taken: autograd looks at the tensor and
    // not at its storage, so the two sides of an addition may be handed one memory.
    void take(size_t index, at::Tensor gradient) {
        TORCH_CHECK(!(last && seen[index]), "the gradient of parameter ", index, " came twice in one backward");
        seen[index] = 1;
        auto &place = places[index];
        if (gradient.layout() != at::kStrided) {
            gradient = gradient.to_dense();
        }
        if (reached[index]) {
            place.add_(gradient);
        } else if (adopted[index]) {
            const auto &parameter = parameters[index];
            if (gradient.strides() != parameter.strides() || !gradient.is_non_overlapping_and_dense() ||
                gradient.scalar_type() != parameter.scalar_type() || gradient.device() != parameter.device() ||
                is_taken(gradient)) {
                gradient = at::empty_strided(parameter.sizes(), parameter.strides(), parameter.options()).copy_(gradient);
            }
            place.set_(gradient.storage(), gradient.storage_offset(), gradient.sizes(), gradient.strides());
        } else if (place.is_cpu() && gradient.is_cpu() && gradient.scalar_type() == place.scalar_type() &&
                   gradient.strides() == place.strides() && gradient.is_non_overlapping_and_dense()) {
            std::memcpy(place.data_ptr(), gradient.const_data_ptr(), place.nbytes());
        } else {
            place.copy_(gradient);
        }
        reached[index] = 1;
    }

    bool is_taken(const at::Tensor &gradient) const {
        const auto *storage = gradient.storage().unsafeGetStorageImpl();
        for (size_t i = 0; i < places.size(); ++i) {
            if (adopted[i] && reached[i] && places[i].storage().unsafeGetStorageImpl() == storage) {
                return true;
            }
        }
        return false;
    }
};

namespace {

struct Collector : torch::autograd::PostAccumulateGradHook {
    KdGradients *gradients;
    size_t index;

    Collector(KdGradients *g, size_t i) : gradients(g), index(i) {}

    // An exception ends the backward that called, as its error.
    void operator()(const torch::autograd::Variable &parameter) override {
        c10::NoGradGuard no_graph;
        gradients->take(index, std::exchange(parameter.mutable_grad(), at::Tensor()));
        gradients->hook(gradients->context, index);
    }
};

} // namespace

extern "C" {

KdGradients *kd_gradients_new(const at::Tensor *const *parameters, const at::Tensor *const *places,
                              const bool *adopted, size_t count, void (*hook)(void *, size_t), void *context) {
    return guarded<KdGradients *>(nullptr, [&] {
        auto gradients = std::make_unique<KdGradients>();
        for (size_t i = 0; i < count; ++i) {
            gradients->parameters.push_back(*parameters[i]);
            gradients->places.push_back(*places[i]);
            gradients->adopted.push_back(adopted[i]);
        }
        gradients->reached.resize(count);
        gradients->seen.resize(count);
        gradients->hook = hook;
        gradients->context = context;
        auto *watching = gradients.release(); // leaked if a hook cannot be hung: others may fire
        for (size_t i = 0; i < count; ++i) {
            torch::autograd::impl::set_post_acc_grad_hooks(watching->parameters[i],
                                                           std::make_unique<Collector>(watching, i));
        }
        return watching;
    });
}
bool kd_gradients_detach(KdGradients *gradients) {
    return guarded(false, [&] {
        for (const auto &parameter : gradients->parameters) {
            torch::autograd::impl::set_post_acc_grad_hooks(parameter, nullptr);
        }
        return true;
    });
}
void kd_gradients_free(KdGradients *gradients) { delete gradients; }

bool kd_gradients_begin(KdGradients *gradients) {
    return guarded(false, [&] {
        c10::NoGradGuard no_graph;
        for (size_t i = 0; i < gradients->places.size(); ++i) {
            if (gradients->adopted[i] && gradients->places[i].numel() > 0) {
                gradients->places[i].set_();
            }
        }
        std::fill(gradients->reached.begin(), gradients->reached.end(), 0);
        gradients->last = false;
        return true;
    });
}
void kd_gradients_begin_last(KdGradients *gradients) {
    std::fill(gradients->seen.begin(), gradients->seen.end(), 0);
    gradients->last = true;
}
bool kd_gradients_finish(KdGradients *gradients) {
    return guarded(false, [&] {
        c10::NoGradGuard no_graph;
        for (size_t i = 0; i < gradients->places.size(); ++i) {
            if (!gradients->reached[i] && !gradients->adopted[i]) {
                gradients->places[i].zero_();
            }
        }
        return true;
    });
}
}
