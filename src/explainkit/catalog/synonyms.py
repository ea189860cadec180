"""Names from other libraries, for hints in error messages."""

METHODS = {
    "cam": "gradcam",
    "deconvolution": "deconvnet",
    "eigen_smooth": "eigengradcam",
    "fullgrad": "full_gradient",
    "gbp": "guided_backprop",
    "grad": "saliency",
    "grad_x_input": "input_x_gradient",
    "gradient": "saliency",
    "gradients": "saliency",
    "gradientxinput": "input_x_gradient",
    "ig": "integrated_gradients",
    "layer_conductance": "conductance",
    "layer_deep_lift": "deeplift with at=",
    "layer_gradcam": "gradcam",
    "layer_gradient_x_activation": "input_x_gradient with at=",
    "layer_integrated_gradients": "integrated_gradients with at=",
    "layerwise_relevance_propagation": "lrp",
    "noise_tunnel": "smoothgrad",
    "rollout": "attention_rollout",
    "shap": "kernel_shap, deeplift_shap, gradient_shap or partition_shap",
    "shapley_value_sampling": "shapley_sampling",
    "shapley_values": "shapley_sampling",
    "sliding_window": "occlusion",
    "vanilla_gradient": "saliency",
}
"""Another library's name of a method to ours."""

PARAMETERS = {
    "abs": ("absolute",),
    "baselines": ("baseline",),
    "baseline": ("baselines",),
    "feature_mask": ("segments",),
    "interpolate_mode": ("upsample",),
    "kernel_size": ("window",),
    "layer": ("layer", "at"),
    "layer_name": ("layer", "at"),
    "layers": ("layer", "at"),
    "n_perturb_samples": ("samples",),
    "n_samples": ("samples",),
    "n_steps": ("steps",),
    "nb_samples": ("samples",),
    "nt_samples": ("samples",),
    "nt_samples_batch_size": ("batch_size",),
    "num_samples": ("samples",),
    "num_steps": ("steps",),
    "internal_batch_size": ("batch_size",),
    "patch_size": ("window",),
    "patch_stride": ("stride",),
    "perturbations_per_eval": ("batch_size",),
    "relu_attributions": ("relu",),
    "sliding_window_shapes": ("window",),
    "stdevs": ("noise",),
    "strides": ("stride",),
    "target_category": ("target",),
    "target_layer": ("layer", "at"),
    "target_layers": ("layer", "at"),
    "as_is": ("keep_mode",),
}
"""Another library's parameter to ours; the first that the method or ``explain()`` has counts."""

CALL = frozenset({"at", "batch_size", "keep_mode", "target"})
"""The parameters above that belong to ``explain()`` itself."""


def plain(name: str) -> str:
    """A name without case and punctuation, for comparison.

    Examples:
        >>> plain("Grad_CAM++") == plain("gradcam-plus-plus")
        True
    """
    return "".join(c for c in name.casefold().replace("+", "plus") if c.isalnum())


def bare_name(name: str) -> str:
    """A qualified name without its plugin, or without its module.

    Examples:
        >>> bare_name("explainkit/gradcam"), bare_name("torch.nn.Sequential")
        ('gradcam', 'Sequential')
    """
    return name.rpartition("/")[2].rpartition(".")[2]


def method_hint(name: str) -> str | None:
    """Our name of a method that another library calls ``name``, or None."""
    return next((ours for theirs, ours in METHODS.items() if plain(theirs) == plain(name)), None)


def parameter_hint(name: str, known: set[str]) -> str | None:
    """Our name of a parameter that another library calls ``name``, or None."""
    ours = PARAMETERS.get(name, ())
    return next((one for one in ours if one in known or one in CALL), None)
