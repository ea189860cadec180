"""The core's own methods, maximizers, metrics and pages, offered as the plugin ``explainkit``."""

from collections.abc import Mapping
from pathlib import Path

from explainkit.catalog.hookspecs import hookimpl
from explainkit.catalog.synonyms import method_hint, plain


@hookimpl
def explainkit_methods() -> Mapping[str, str]:
    """The core's methods, as strings, so that torch is imported only when one is used."""
    return {
        "ablation_cam": "explainkit.methods.cam.ablation:AblationCAM",
        "attention_rollout": "explainkit.methods.attention.rollout:AttentionRollout",
        "attn_lrp": "explainkit.methods.attention.attn_lrp:AttnLRP",
        "gradient_rollout": "explainkit.methods.attention.rollout:GradientRollout",
        "guided_backprop": "explainkit.methods.propagation.guided:GuidedBackprop",
        "aug_smooth": "explainkit.methods.cam.aug_smooth:AugSmooth",
        "deconvnet": "explainkit.methods.propagation.guided:Deconvnet",
        "deeplift": "explainkit.methods.propagation.deeplift:DeepLift",
        "deeplift_shap": "explainkit.methods.propagation.deeplift:DeepLiftShap",
        "extremal_perturbation": "explainkit.methods.perturbation.optimal:ExtremalPerturbation",
        "feature_ablation": "explainkit.methods.perturbation.ablation:FeatureAblation",
        "eigencam": "explainkit.methods.cam.eigen:EigenCAM",
        "eigengradcam": "explainkit.methods.cam.eigen:EigenGradCAM",
        "elementwise_cam": "explainkit.methods.cam.gradient:ElementwiseCAM",
        "finercam": "explainkit.methods.cam.finer:FinerCAM",
        "gradcam": "explainkit.methods.cam.gradient:GradCAM",
        "gradcam_plus_plus": "explainkit.methods.cam.gradient:GradCAMPlusPlus",
        "guided_gradcam": "explainkit.methods.cam.guided:GuidedGradCAM",
        "hirescam": "explainkit.methods.cam.gradient:HiResCAM",
        "kpca_cam": "explainkit.methods.cam.eigen:KPCACAM",
        "layercam": "explainkit.methods.cam.gradient:LayerCAM",
        "recipro_cam": "explainkit.methods.cam.recipro:ReciproCAM",
        "score_cam": "explainkit.methods.cam.score:ScoreCAM",
        "shapleycam": "explainkit.methods.cam.shapley:ShapleyCAM",
        "xgradcam": "explainkit.methods.cam.gradient:XGradCAM",
        "blur_ig": "explainkit.methods.path.blur:BlurIG",
        "expected_gradients": "explainkit.methods.path.expected:ExpectedGradients",
        "gradient_shap": "explainkit.methods.path.expected:ExpectedGradients",
        "guided_ig": "explainkit.methods.path.guided:GuidedIG",
        "idgi": "explainkit.methods.path.idgi:IDGI",
        "hsic": "explainkit.methods.perturbation.sensitivity:Hsic",
        "input_x_gradient": "explainkit.methods.gradient:InputXGradient",
        "integrated_gradients": "explainkit.methods.path.integrated:IntegratedGradients",
        "kernel_shap": "explainkit.methods.perturbation.shapley:KernelShap",
        "legrad": "explainkit.methods.attention.legrad:LeGrad",
        "libragrad": "explainkit.methods.attention.libragrad:LibraGrad",
        "lime": "explainkit.methods.perturbation.lime:Lime",
        "meaningful_perturbation": "explainkit.methods.perturbation.optimal:MeaningfulPerturbation",
        "occlusion": "explainkit.methods.perturbation.occlusion:Occlusion",
        "partition_shap": "explainkit.methods.perturbation.partition:PartitionShap",
        "rise": "explainkit.methods.perturbation.rise:Rise",
        "lrp": "explainkit.methods.propagation.lrp:LRP",
        "excitation_backprop": "explainkit.methods.propagation.lrp:ExcitationBackprop",
        "deep_taylor": "explainkit.methods.propagation.lrp:DeepTaylor",
        "full_gradient": "explainkit.methods.propagation.full_gradient:FullGradient",
        "conductance": "explainkit.methods.path.conductance:Conductance",
        "internal_influence": "explainkit.methods.path.conductance:InternalInfluence",
        "saliency": "explainkit.methods.gradient:Saliency",
        "shapley_sampling": "explainkit.methods.perturbation.shapley:ShapleySampling",
        "smoothgrad": "explainkit.methods.gradient:SmoothGrad",
        "smoothgrad_squared": "explainkit.methods.gradient:SmoothGradSquared",
        "sobol": "explainkit.methods.perturbation.sensitivity:Sobol",
        "vargrad": "explainkit.methods.gradient:VarGrad",
        "xrai": "explainkit.methods.path.xrai:XRAI",
    }


SCORECARD = "explainkit.metrics.scorecard:scorecard_of"
"""What gives an explanation its scorecard. Metrics run models, of which results know nothing."""

CONCEPT_MAP = "explainkit.concept_discovery.concept_map:map_of"
"""What gives concepts their maps over images, for the same reason."""

METHOD_CLASSES = {path.partition(":")[2]: path for path in explainkit_methods().values()}
"""Class name to the ``"module:attribute"`` string of each method."""


def methods_hint(name: str) -> str:
    """A hint for a method class that was looked up under another name or in another module.

    Examples:
        >>> methods_hint("GradCam"), methods_hint("NoiseTunnel")
        (': did you mean explainkit.methods.GradCAM?', ': here it is called smoothgrad')
    """
    same = next((made for made in METHOD_CLASSES if plain(made) == plain(name)), None)
    if same is not None:
        return f": did you mean explainkit.methods.{same}?"
    hint = method_hint(name)
    return f": here it is called {hint}" if hint else ""


@hookimpl
def explainkit_maximizers() -> Mapping[str, str]:
    """The core's maximizers."""
    return {
        "cppn": "explainkit.activation_maximization.optimize:CPPN",
        "fourier": "explainkit.activation_maximization.optimize:Fourier",
        "maco": "explainkit.activation_maximization.optimize:MACO",
        "pixel": "explainkit.activation_maximization.optimize:Pixel",
        "pyramid": "explainkit.activation_maximization.optimize:LaplacianPyramid",
        "plain": "explainkit.activation_maximization.optimize:Plain",
    }


@hookimpl
def explainkit_metrics() -> Mapping[str, str]:
    """The core's metrics."""
    return {
        "area_share": "explainkit.metrics.localization:area_share",
        "auc": "explainkit.metrics.localization:auc",
        "completeness": "explainkit.metrics.agreement:completeness",
        "deletion": "explainkit.metrics.curves:deletion",
        "entropy": "explainkit.metrics.complexity:entropy",
        "faithfulness_correlation": "explainkit.metrics.agreement:faithfulness_correlation",
        "gini": "explainkit.metrics.complexity:gini",
        "infidelity": "explainkit.metrics.agreement:infidelity",
        "insertion": "explainkit.metrics.curves:insertion",
        "mass_accuracy": "explainkit.metrics.localization:mass_accuracy",
        "max_sensitivity": "explainkit.metrics.robustness:max_sensitivity",
        "mprt": "explainkit.metrics.randomization:mprt",
        "pointing_game": "explainkit.metrics.localization:pointing_game",
        "random_logit": "explainkit.metrics.randomization:random_logit",
        "rank_accuracy": "explainkit.metrics.localization:rank_accuracy",
        "relative_output_stability": "explainkit.metrics.robustness:relative_output_stability",
        "road": "explainkit.metrics.curves:road",
        "single_deletion": "explainkit.metrics.agreement:single_deletion",
        "srg": "explainkit.metrics.curves:srg",
    }


@hookimpl
def explainkit_gallery() -> Path:
    """The core's own gallery pages."""
    return Path(__file__).parents[1] / "gallery/pages"
