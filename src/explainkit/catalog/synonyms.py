"""Names from other libraries, for hints in error messages."""

_METHODS = {
    "gradcam": "cam layer_gradcam",
    "deconvnet": "deconvolution",
    "eigengradcam": "eigen_smooth",
    "full_gradient": "fullgrad",
    "guided_backprop": "gbp",
    "saliency": "grad gradient gradients vanilla_gradient",
    "input_x_gradient": "grad_x_input gradientxinput",
    "integrated_gradients": "ig",
    "conductance": "layer_conductance",
    "deeplift with at=": "layer_deep_lift",
    "input_x_gradient with at=": "layer_gradient_x_activation",
    "integrated_gradients with at=": "layer_integrated_gradients",
    "lrp": "layerwise_relevance_propagation",
    "smoothgrad": "noise_tunnel",
    "attention_rollout": "rollout",
    "kernel_shap, deeplift_shap, gradient_shap or partition_shap": "shap",
    "shapley_sampling": "shapley_value_sampling shapley_values",
    "occlusion": "sliding_window",
}
METHODS = {theirs: ours for ours, names in _METHODS.items() for theirs in names.split()}
"""Another library's name of a method to ours."""

METRICS = {
    "abpc": "srg, the area between both orders",
    "attribution_localisation": "mass_accuracy, which never takes absolute values",
    "avg_sensitivity": "max_sensitivity, the largest change instead of the mean",
    "complexity": "entropy, of the values with channels summed",
    "drop_in_confidence": "deletion, of the score as it is explained",
    "focus": "mass_accuracy, with the class's tiles of the mosaic as the mask",
    "idsds": "single_deletion, without fine-tuning the model",
    "model_parameter_randomisation": "mprt, which draws every parameter again",
    "model_parameter_randomisation_test": "mprt, which draws every parameter again",
    "morf": "deletion, the area under the curve",
    "pixel_flipping": "deletion, the area under the curve, in 20 steps by default",
    "region_perturbation": "deletion, pixel by pixel instead of region by region",
    "relevance_mass_accuracy": "mass_accuracy, of positive values only",
    "relevance_rank_accuracy": "rank_accuracy, in which ties count in proportion",
    "remove_and_debias": "road, the mean over the shares of removed pixels",
    "road_combined": "srg, the difference of the two orders instead of half of it",
    "selectivity": "single_deletion, a rank correlation over the cells of a grid",
    "sensitivity_max": "max_sensitivity, with a radius in units of the image's range",
    "sensitivity_n": "faithfulness_correlation, for one size of the sets",
    "sparseness": "gini, of the values with channels summed",
    "top_k_intersection": "rank_accuracy, where k is the size of the mask",
}
"""Another library's name of a metric to ours, with the difference."""

_PARAMETERS = {
    "absolute": "abs",
    "baseline": "baselines",
    "baselines": "baseline",
    "segments": "feature_mask",
    "upsample": "interpolate_mode",
    "window": "kernel_size patch_size sliding_window_shapes",
    "layer at": "layer layer_name layers target_layer target_layers",
    "samples": "n_perturb_samples n_samples nb_samples nt_samples num_samples",
    "steps": "n_steps num_steps",
    "batch_size": "nt_samples_batch_size internal_batch_size perturbations_per_eval",
    "stride": "patch_stride strides",
    "relu": "relu_attributions",
    "at": "attribute_to_layer_input",
    "against": "comparison_categories",
    "bias": "zero_params",
    "kernel": "similarity_func",
    "noise": "stdevs",
    "target": "target_category",
    "keep_mode": "as_is",
}
PARAMETERS = {
    theirs: tuple(ours.split()) for ours, names in _PARAMETERS.items() for theirs in names.split()
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
    """A name without its plugin, its module, its package or its folder.

    Examples:
        >>> bare_name("explainkit/gradcam"), bare_name("torch.nn.Sequential")
        ('gradcam', 'Sequential')
        >>> bare_name("timm:resnet50.a1_in1k"), bare_name("nets/small.py:make")
        ('resnet50.a1_in1k', 'make')
    """
    last = name.rpartition(":")[2].rpartition("/")[2]
    return last if ":" in name else last.rpartition(".")[2]


def model_title(name: str) -> str:
    """A model's name in a title: the one it was loaded by, or its class without the module.

    Examples:
        >>> model_title("torch.nn.modules.container.Sequential"), model_title("fer_hw3/cnn")
        ('Sequential', 'fer_hw3/cnn')
        >>> model_title("nets/small.py:make")
        'nets/small.py:make'
    """
    return name if {"/", ":"} & set(name) else bare_name(name)


def method_hint(name: str) -> str | None:
    """Our name of a method that another library calls ``name``, or None."""
    return next((ours for theirs, ours in METHODS.items() if plain(theirs) == plain(name)), None)


def metric_hint(name: str) -> str | None:
    """Our name of a metric that another library calls ``name``, with the difference, or None.

    Examples:
        >>> metric_hint("PixelFlipping")
        'deletion, the area under the curve, in 20 steps by default'
    """
    # as in America, too
    spelled = plain(name).replace("ization", "isation")
    return next((ours for theirs, ours in METRICS.items() if plain(theirs) == spelled), None)


def parameter_hint(name: str, known: set[str]) -> str | None:
    """Our name of a parameter that another library calls ``name``, or None."""
    ours = PARAMETERS.get(name, ())
    return next((one for one in ours if one in known or one in CALL), None)
