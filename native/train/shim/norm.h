// Batch norm by statistics that are given, of which backward knows that they are those of values on several ranks. Rust's
// half is src/shim_norm.rs. The rules of shim.h hold here too.
#pragma once
#include <cstddef>

namespace at {
class Tensor;
}

extern "C" {
// The values per channel (dimension 1) of `input`, then the mean of each channel, then the sum of squares around it:
// 1 + 2 * channels numbers.
bool kd_norm_moments(const at::Tensor *input, double *moments, size_t length);

// (input - mean) / sqrt(variance + epsilon) * weight + bias per channel, in the type of `input`; weight and bias may be
// null. `mean` and `variance` have `channels` numbers each and are those of `count` values per channel, of which `input`
// holds some. Backward calls sum(context, values, 2 * channels) once: it must replace the values by their sum over all that
// share the statistics, and returns false on failure, which fails the backward. `release` frees the context when nothing
// needs it any more, or at once if this fails. Neither may unwind.
at::Tensor *kd_norm_apply(const at::Tensor *input, const at::Tensor *weight, const at::Tensor *bias, const double *mean,
                          const double *variance, size_t channels, double count, double epsilon, void *context,
                          bool (*sum)(void *context, double *values, size_t length), void (*release)(void *context));
}
