"""Sets of dispatcher operators by kind: linear, elementwise, maxima and so on."""


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


LAYERS = frozenset({"convolution", "addmm", "mm", "bmm", "baddbmm", "mv", "addmv", "dot"})
"""Products with weights, provided that only one factor depends on the image."""

ACTIVATIONS = _set(
    """
    relu threshold hardtanh relu6 leaky_relu prelu _prelu_kernel elu celu selu gelu silu
    mish sigmoid tanh hardswish hardsigmoid softplus log_sigmoid_forward hardshrink
    softshrink rrelu_with_noise
    """
)

UNARY = ACTIVATIONS | _set(
    """
    exp exp2 expm1 log log2 log10 log1p sqrt rsqrt reciprocal pow abs square clamp
    clamp_min clamp_max sin cos tan sinc asin acos atan sinh cosh asinh acosh atanh erf
    erfc erfinv logit sign round floor ceil trunc frac nan_to_num
    """
)
"""Elementwise functions of one tensor."""

MAXIMA = _set(
    """
    max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool2d
    adaptive_max_pool3d max_pool1d_with_indices amax amin max min maximum minimum
    """
)

GATES = frozenset({"glu"})
"""Gated linear units: two halves of one tensor multiplied, one after an activation."""

SOFTMAXES = frozenset({"_softmax", "_safe_softmax", "_log_softmax", "logsumexp"})

BATCH_NORMS = _set(
    """
    native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit
    _native_batch_norm_legit_no_training _batch_norm_with_update
    """
)

TWO_STATISTICS = frozenset({"var_mean", "std_mean"})
"""Normalizations with two results, the variance or standard deviation and the mean."""

NORMS = (
    BATCH_NORMS
    | TWO_STATISTICS
    | _set("native_layer_norm native_group_norm _fused_rms_norm linalg_vector_norm var std")
)

WARPS = frozenset({"grid_sampler_2d", "grid_sampler_3d"})
"""Linear in the sampled values, not in the sampling coordinates."""

SHAPES = _set(
    """
    alias as_strided cat clone contiguous copy detach diagonal expand flatten flip index
    index_select lift_fresh movedim narrow permute pixel_shuffle pixel_unshuffle repeat
    reshape roll rot90 select slice split split_with_sizes squeeze stack t take transpose
    unbind unflatten unfold unsafe_split unsqueeze view _reshape_alias _unsafe_view
    _to_copy view_as_real channel_shuffle native_channel_shuffle gather unsafe_chunk chunk
    im2col col2im
    """
)
"""Operators that only rearrange values."""

LINEAR = SHAPES | _set(
    """
    add addcdiv sub rsub neg sum mean lerp cumsum constant_pad_nd reflection_pad1d reflection_pad2d
    reflection_pad3d replication_pad1d replication_pad2d replication_pad3d avg_pool1d
    avg_pool2d avg_pool3d adaptive_avg_pool1d _adaptive_avg_pool2d _adaptive_avg_pool3d
    adaptive_avg_pool2d upsample_nearest1d upsample_nearest2d upsample_nearest3d
    upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d
    _upsample_bilinear2d_aa _upsample_bicubic2d_aa _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d grid_sampler_2d grid_sampler_3d
    masked_fill tril triu select_scatter slice_scatter index_put index_add index_fill
    scatter scatter_add fill zero where masked_scatter native_dropout trace
    """
)
"""Affine in the inputs that depend on the image, so their gradient is exact for any change."""

RECTIFIERS = MAXIMA | _set("relu leaky_relu threshold prelu _prelu_kernel abs")
"""Piecewise linear and through zero: equal to their gradient times their input."""
