#include "norm.h"
#include "guarded.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <memory>
#include <vector>

namespace {

// Who the gradient's sums are shared with.
struct Sharers : torch::CustomClassHolder {
    void *context;
    bool (*sum)(void *, double *, size_t);
    void (*release)(void *);

    Sharers(void *c, bool (*s)(void *, double *, size_t), void (*r)(void *)) : context(c), sum(s), release(r) {}
    ~Sharers() override { release(context); }
};

std::vector<int64_t> all_but_channels(const at::Tensor &tensor) {
    std::vector<int64_t> dims;
    for (int64_t dim = 0; dim < tensor.dim(); ++dim) {
        if (dim != 1) {
            dims.push_back(dim);
        }
    }
    return dims;
}

// A number per channel, to be combined with `like`.
at::Tensor per_channel(const at::Tensor &values, const at::Tensor &like) {
    std::vector<int64_t> shape(like.dim(), 1);
    shape.at(1) = values.numel();
    return values.view(shape);
}

// What batch norm keeps its statistics in: half-precision inputs have float32 statistics.
at::ScalarType statistics_type(const at::Tensor &input) {
    auto type = input.scalar_type();
    return type == at::kHalf || type == at::kBFloat16 ? at::kFloat : type;
}

void copy_out(const at::Tensor &tensor, double *to) {
    auto values = tensor.to(at::kCPU, at::kDouble).contiguous();
    std::copy_n(values.const_data_ptr<double>(), values.numel(), to);
}

at::Tensor copy_in(const double *from, int64_t length, const at::Tensor &like) {
    auto values = at::empty({length}, at::kDouble);
    std::copy_n(from, length, values.mutable_data_ptr<double>());
    return values.to(like.device(), statistics_type(like));
}

// The gradient is PyTorch's SyncBatchNorm's: with N values per channel in all, sums over all of them,
//   d input = weight * invstd * (d out - sum(d out) / N - (x - mean) * invstd^2 * sum(d out * (x - mean)) / N)
// The gradients of weight and bias stay this rank's: they are summed with those of the other parameters.
struct SharedNorm : torch::autograd::Function<SharedNorm> {
    static at::Tensor forward(torch::autograd::AutogradContext *ctx, const at::Tensor &input,
                              const std::optional<at::Tensor> &weight, const std::optional<at::Tensor> &bias, const at::Tensor &mean, const at::Tensor &variance, double count,
                              double epsilon, c10::intrusive_ptr<Sharers> sharers) {
        ctx->save_for_backward({input, weight.value_or(at::Tensor()), mean, variance});
        ctx->saved_data["biased"] = bias.has_value();
        ctx->saved_data["count"] = count;
        ctx->saved_data["epsilon"] = epsilon;
        ctx->saved_data["sharers"] = c10::IValue::make_capsule(std::move(sharers));
        // Of half precision the kernel takes all of these in float32, or none.
        auto half = mean.scalar_type() != input.scalar_type();
        auto wide = [&](const std::optional<at::Tensor> &tensor) {
            return tensor && half ? std::optional<at::Tensor>(tensor->to(mean.scalar_type())) : tensor;
        };
        return std::get<0>(at::native_batch_norm(input, wide(weight), wide(bias), mean, variance, false, 0.0, epsilon));
    }

    static torch::autograd::variable_list backward(torch::autograd::AutogradContext *ctx,
                                                   const torch::autograd::variable_list &grads) {
        auto saved = ctx->get_saved_variables();
        const auto &input = saved.at(0), &weight = saved.at(1), &mean = saved.at(2), &variance = saved.at(3);
        auto sharers = c10::static_intrusive_pointer_cast<Sharers>(ctx->saved_data["sharers"].toCapsule());
        auto count = ctx->saved_data["count"].toDouble();
        auto type = mean.scalar_type();
        auto grad = grads.at(0).defined() ? grads.at(0).to(type) : at::zeros_like(input, input.options().dtype(type));
        auto invstd = (variance + ctx->saved_data["epsilon"].toDouble()).rsqrt();
        auto centred = input.to(type) - per_channel(mean, input);
        auto dims = all_but_channels(input);
        auto channels = mean.numel();
        auto sum = grad.sum(dims), weighted = (grad * centred).sum(dims);
        std::vector<double> sums(2 * channels);
        copy_out(sum, sums.data());
        copy_out(weighted, sums.data() + channels);
        TORCH_CHECK(sharers->sum(sharers->context, sums.data(), sums.size()),
                    "the ranks could not sum the gradient of a batch norm");
        for (auto &value : sums) {
            value /= count;
        }
        auto mean_grad = copy_in(sums.data(), channels, mean);
        auto slope = copy_in(sums.data() + channels, channels, mean) * invstd * invstd;
        auto scale = weight.defined() ? invstd * weight.to(type) : invstd;
        auto to_input = (grad - per_channel(mean_grad, input) - centred.mul_(per_channel(slope, input)))
                            .mul_(per_channel(scale, input))
                            .to(input.scalar_type());
        at::Tensor none;
        auto to_weight = weight.defined() ? (weighted * invstd).to(weight.scalar_type()) : none;
        auto biased = ctx->saved_data["biased"].toBool();
        auto to_bias = biased ? (weight.defined() ? sum.to(weight.scalar_type()) : sum) : none;
        return {to_input, to_weight, to_bias, none, none, none, none, none};
    }
};

} // namespace

extern "C" {

bool kd_norm_moments(const at::Tensor *input, double *moments, size_t length) {
    return guarded(false, [&] {
        TORCH_CHECK(input->dim() >= 2, "batch norm takes at least 2 dimensions, not ", input->dim());
        auto channels = input->size(1);
        TORCH_CHECK(length == static_cast<size_t>(1 + 2 * channels), "the moments of ", channels, " channels do not fit");
        at::NoGradGuard no_grad;
        auto count = channels > 0 ? input->numel() / channels : 0;
        moments[0] = static_cast<double>(count);
        if (count == 0) {
            std::fill_n(moments + 1, 2 * channels, 0.0);
            return true;
        }
        // The kernel of batch norm itself, which sums in double precision on CPUs. Of half precision it would also return
        // half-precision statistics.
        auto [mean, variance] = at::batch_norm_update_stats(input->to(statistics_type(*input)), {}, {}, 0.0);
        copy_out(mean, moments + 1);
        copy_out(variance, moments + 1 + channels);
        for (int64_t channel = 0; channel < channels; ++channel) {
            moments[1 + channels + channel] *= static_cast<double>(count);
        }
        return true;
    });
}

at::Tensor *kd_norm_apply(const at::Tensor *input, const at::Tensor *weight, const at::Tensor *bias, const double *mean,
                          const double *variance, size_t channels, double count, double epsilon, void *context,
                          bool (*sum)(void *, double *, size_t), void (*release)(void *)) {
    return guarded<at::Tensor *>(nullptr, [&] {
        auto sharers = c10::make_intrusive<Sharers>(context, sum, release);
        auto length = static_cast<int64_t>(channels);
        auto maybe = [](const at::Tensor *tensor) {
            return tensor != nullptr ? std::optional<at::Tensor>(*tensor) : std::nullopt;
        };
        return new at::Tensor(SharedNorm::apply(*input, maybe(weight), maybe(bias),
                                                copy_in(mean, length, *input), copy_in(variance, length, *input), count,
                                                epsilon, std::move(sharers)));
    });
}
}
