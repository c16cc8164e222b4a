//! The list of operators a program may run.
//!
//! A program is data from strangers, and ATen's dispatcher knows operators that open files (`aten::from_file`), point
//! a tensor at other memory (`aten::set_`, `aten::resize_`, `aten::as_strided`), skip bounds checks
//! (`aten::_unsafe_index`) or belong to a tensor's plumbing. Kindling runs what *computes* and nothing else: a name
//! that is not below is refused, whatever it does. An operator missing here that only computes is an oversight: add
//! it to its group.
//!
//! Names are without the prefix `aten::` and without overload. The in-place variant of every name in [`IN_PLACE`]
//! (`relu_` for `relu`) is allowed too.

use std::collections::HashSet;
use std::sync::LazyLock;

/// Element by element, with an in-place variant.
const IN_PLACE: &[&str] = &[
    // arithmetic
    "abs absolute add addcdiv addcmul atan2 arctan2 ceil clamp clamp_max clamp_min clip copysign div divide",
    "exp exp2 expm1 fill fix float_power floor floor_divide fmod frac gcd heaviside hypot lcm ldexp lerp log log10",
    "log1p log2 logit mul multiply nan_to_num neg negative nextafter pow reciprocal remainder round rsqrt sgn sign",
    "sqrt square sub subtract true_divide trunc xlogy zero",
    // trigonometry and special functions
    "acos acosh arccos arccosh arcsin arcsinh arctan arctanh asin asinh atan atanh cos cosh deg2rad digamma erf erfc",
    "erfinv i0 igamma igammac lgamma mvlgamma polygamma rad2deg sin sinc sinh tan tanh",
    // comparison and logic
    "bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor eq ge greater",
    "greater_equal gt le less less_equal logical_and logical_not logical_or logical_xor lt ne not_equal",
    // activations
    "celu elu hardsigmoid hardswish hardtanh leaky_relu mish relu relu6 selu sigmoid silu threshold",
    // matrix products that add
    "addbmm addmm addmv addr baddbmm",
    // running results, masks and writes to places
    "copy cumprod cumsum index_add index_copy index_fill index_put index_reduce masked_fill",
    "masked_scatter put renorm scatter scatter_add scatter_reduce tril triu",
    // views: the in-place variant only re-labels the dimensions of the same elements
    "detach squeeze swapaxes swapdims t transpose unsqueeze",
];

/// Element by element, without an in-place variant.
const ELEMENTWISE: &[&str] = &[
    "bucketize clone fmax fmin frexp gelu glu hardshrink isclose isfinite isin isinf isnan isneginf isposinf isreal",
    "log_sigmoid logaddexp logaddexp2 maximum minimum positive prelu rsub searchsorted signbit softplus softshrink",
    "where special_entr special_erf special_erfc special_erfcx special_erfinv special_exp2 special_expit",
    "special_expm1 special_gammainc special_gammaincc special_gammaln special_i0 special_i0e special_i1 special_i1e",
    "special_log1p special_log_ndtr special_logit special_multigammaln special_ndtr special_ndtri special_polygamma",
    "special_psi special_round special_sinc special_xlog1py special_xlogy special_zeta special_digamma",
    "__and__ __lshift__ __or__ __rshift__ __xor__ __iand__ __ilshift__ __ior__ __irshift__ __ixor__",
];

/// Many elements to few, sorting and running results.
const REDUCTIONS: &[&str] = &[
    "_is_all_true _is_any_true all allclose amax amin aminmax any argmax argmin argsort bincount count_nonzero cummax cummin diff equal",
    "histc kthvalue logcumsumexp logsumexp max mean median min mode msort nanmean nanmedian nanquantile nansum norm",
    "prod quantile segment_reduce softmax log_softmax _softmax _log_softmax _safe_softmax special_softmax special_log_softmax",
    "special_logsumexp sort std std_mean sum sum_to_size topk trapezoid trapz cumulative_trapezoid unique_consecutive",
    "unique_dim _unique2 var var_mean frobenius_norm nuclear_norm norm_except_dim linalg_norm linalg_vector_norm",
    "linalg_matrix_norm cov corrcoef",
];

/// The same elements, seen or laid out differently.
const VIEWS: &[&str] = &[
    "_reshape_copy _unsafe_view adjoint alias alias_copy atleast_1d atleast_2d atleast_3d block_diag",
    "broadcast_tensors broadcast_to cartesian_prod cat channel_shuffle chunk column_stack combinations concat",
    "concatenate constant_pad_nd contiguous detach_copy diag diag_embed diagflat diagonal diagonal_copy",
    "diagonal_scatter dsplit dstack expand expand_as expand_copy flatten flip fliplr flipud hsplit hstack mH mT",
    "matrix_H meshgrid movedim moveaxis narrow narrow_copy native_channel_shuffle numpy_T pad pad_sequence permute",
    "permute_copy pixel_shuffle pixel_unshuffle ravel reflection_pad1d reflection_pad2d reflection_pad3d repeat",
    "repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape reshape_as roll rot90 row_stack",
    "select select_copy select_scatter slice slice_copy slice_scatter split split_copy split_with_sizes",
    "split_with_sizes_copy squeeze_copy stack t_copy tensor_split tile transpose_copy unbind unbind_copy unflatten",
    "unfold unfold_copy unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze_copy view view_as view_copy",
    "vsplit vstack im2col col2im",
];

/// Reading and writing by index.
const INDEXING: &[&str] = &[
    "argwhere embedding embedding_bag embedding_renorm_ fill_diagonal_ gather index index_select masked_select nonzero",
    "nonzero_numpy nonzero_static one_hot take take_along_dim",
];

/// New tensors, and changes of element type.
const CREATION: &[&str] = &[
    "arange bartlett_window blackman_window empty empty_like empty_permuted empty_strided eye full full_like",
    "hamming_window hann_window kaiser_window lift lift_fresh lift_fresh_copy linspace logspace new_empty",
    "new_empty_strided new_full new_ones new_zeros ones ones_like scalar_tensor to _to_copy tril_indices",
    "triu_indices type_as vander zeros zeros_like",
];

/// Sizes and values as integers.
const SCALARS: &[&str] = &["_local_scalar_dense item sym_numel sym_size sym_storage_offset sym_stride"];

/// Products of matrices and what is built from them.
const LINEAR_ALGEBRA: &[&str] = &[
    "_euclidean_dist bilinear bmm cdist chain_matmul cholesky cholesky_inverse cholesky_solve cosine_similarity",
    "cross det dist dot einsum ger inner inverse kron linear logdet matmul matrix_exp matrix_power mm mv outer",
    "pairwise_distance pdist pinverse slogdet tensordot trace triangular_solve vdot",
    "linalg_cholesky linalg_cholesky_ex linalg_cross linalg_det linalg_diagonal linalg_eigh linalg_eigvalsh",
    "linalg_householder_product linalg_inv linalg_inv_ex linalg_lstsq linalg_lu linalg_matmul linalg_matrix_exp",
    "linalg_matrix_power linalg_matrix_rank linalg_multi_dot linalg_pinv linalg_qr linalg_slogdet linalg_solve",
    "linalg_solve_ex linalg_solve_triangular linalg_svd linalg_svdvals linalg_vander linalg_vecdot",
];

/// Convolution, pooling and resampling.
const CONVOLUTION: &[&str] = &[
    "conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d convolution _convolution",
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d",
    "adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d",
    "max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices",
    "max_unpool2d max_unpool3d fractional_max_pool2d fractional_max_pool3d",
    "affine_grid_generator grid_sampler grid_sampler_2d grid_sampler_3d",
    "upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d",
    "upsample_nearest3d upsample_trilinear3d _upsample_bicubic2d_aa _upsample_bilinear2d_aa",
    "_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d",
];

/// Normalisation.
const NORMALISATION: &[&str] = &[
    "batch_norm group_norm instance_norm layer_norm rms_norm native_batch_norm native_group_norm",
    "native_layer_norm _native_batch_norm_legit _weight_norm _weight_norm_interface",
];

/// Attention and recurrent networks.
const SEQUENCES: &[&str] = &[
    "scaled_dot_product_attention _scaled_dot_product_attention_math _scaled_dot_product_flash_attention_for_cpu",
    "_masked_softmax gru gru_cell lstm lstm_cell rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell",
    "_pack_padded_sequence _pad_packed_sequence",
];

/// Losses, for models that compute one inside.
const LOSSES: &[&str] = &[
    "binary_cross_entropy binary_cross_entropy_with_logits cosine_embedding_loss cross_entropy_loss ctc_loss",
    "hinge_embedding_loss huber_loss kl_div l1_loss margin_ranking_loss mse_loss multi_margin_loss",
    "multilabel_margin_loss nll_loss nll_loss2d nll_loss_nd poisson_nll_loss smooth_l1_loss soft_margin_loss",
    "triplet_margin_loss",
];

/// Random unless their switch says otherwise: every one has an argument `train`, `training` or `dropout_p`.
const SWITCHED_RANDOM: &[&str] = &[
    "alpha_dropout alpha_dropout_ dropout dropout_ feature_alpha_dropout feature_alpha_dropout_ feature_dropout",
    "feature_dropout_ native_dropout rrelu rrelu_ rrelu_with_noise rrelu_with_noise_",
];

/// Random always.
const RANDOM: &[&str] = &[
    "bernoulli bernoulli_ binomial cauchy_ exponential_ geometric_ log_normal_ multinomial normal normal_ poisson",
    "rand rand_like randint randint_like randn randn_like random_ randperm uniform_ _standard_gamma _sample_dirichlet",
];

const GROUPS: &[&[&str]] = &[
    IN_PLACE,
    ELEMENTWISE,
    REDUCTIONS,
    VIEWS,
    INDEXING,
    CREATION,
    SCALARS,
    LINEAR_ALGEBRA,
    CONVOLUTION,
    NORMALISATION,
    SEQUENCES,
    LOSSES,
    SWITCHED_RANDOM,
    RANDOM,
];

/// Checks of the export's own assumptions: they compute nothing and are dropped from a program.
const ASSERTIONS: &[&str] = &[
    "_assert_tensor_metadata _assert_scalar _assert_async _functional_assert_scalar _functional_assert_async",
    "sym_constrain_range sym_constrain_range_for_size _functional_sym_constrain_range",
    "_functional_sym_constrain_range_for_size",
];

fn names(lines: &'static [&'static str]) -> impl Iterator<Item = &'static str> {
    lines.iter().flat_map(|line| line.split_ascii_whitespace())
}

// Built once per process: it is derived from the constants above and never changes.
static ALLOWED: LazyLock<HashSet<&str>> = LazyLock::new(|| GROUPS.iter().flat_map(|group| names(group)).collect());

/// Whether a program may run the operator, given its name without overload: `aten::linear`.
///
/// ```
/// assert!(kindling_program::is_allowed("aten::relu_"));
/// assert!(!kindling_program::is_allowed("aten::from_file"));
/// ```
#[must_use]
pub fn is_allowed(name: &str) -> bool {
    let Some(name) = name.strip_prefix("aten::") else { return false };
    ALLOWED.contains(name) || name.strip_suffix('_').is_some_and(|base| names(IN_PLACE).any(|allowed| allowed == base))
}

/// Whether the operator only checks an assumption of the export. `name` is without prefix.
pub(crate) fn is_assertion(name: &str) -> bool {
    names(ASSERTIONS).any(|assertion| assertion == name)
}

/// Whether the operator, by its name with prefix, is random whatever its arguments say.
pub(crate) fn is_random(name: &str) -> bool {
    name.strip_prefix("aten::").is_some_and(|name| names(RANDOM).any(|random| random == name))
}

/// Operators that draw random numbers where an argument says so, beside those of [`SWITCHED_RANDOM`].
const DROPPING: &[&str] =
    &["_scaled_dot_product_attention_math gru lstm rnn_relu rnn_tanh scaled_dot_product_attention"];

/// Whether the operator, by its name with prefix, may draw random numbers.
pub(crate) fn may_draw(name: &str) -> bool {
    let name = name.strip_prefix("aten::").unwrap_or(name);
    [RANDOM, SWITCHED_RANDOM, DROPPING].into_iter().flat_map(names).any(|random| random == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_computes_is_allowed_with_its_in_place_variant() {
        for name in
            ["linear", "add", "add_", "batch_norm", "native_layer_norm", "lstm", "bernoulli_", "copy_", "__or__"]
        {
            assert!(is_allowed(&format!("aten::{name}")), "{name}");
        }
    }

    #[test]
    fn what_touches_files_storage_or_bounds_is_refused() {
        for name in [
            "aten::from_file",
            "aten::set_",
            "aten::resize_",
            "aten::resize_as_",
            "aten::as_strided",
            "aten::as_strided_",
            "aten::_unsafe_index",
            "aten::_index_put_impl_",
            "aten::record_stream",
            "aten::_print",
            "aten::save",
            "aten::manual_seed",
            "aten::_fused_adam_",
            "aten::linear_",
            "aten::",
            "linear",
            "prim::Print",
            "quantized::linear",
        ] {
            assert!(!is_allowed(name), "{name}");
        }
    }

    #[test]
    fn no_name_is_listed_twice() {
        let mut seen = HashSet::new();
        for name in GROUPS.iter().flat_map(|group| names(group)).chain(names(ASSERTIONS)) {
            assert!(seen.insert(name), "{name} is listed twice");
        }
    }
}
