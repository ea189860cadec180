"""What the colors of a map mean, method by method."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from explainkit.catalog.synonyms import bare_name

if TYPE_CHECKING:
    from explainkit.results.explanation import Explanation

Meaning = Literal["sensitivity", "contribution", "importance", "value"]
"""What a value of a map is: the score's change per unit of the input, a share of the score, a
strength without a sign, or none of these."""

MEANINGS: Mapping[str, Meaning | Literal["base"]] = {
    "ablation_cam": "contribution",
    "attention_rollout": "importance",
    "attn_lrp": "contribution",
    "blur_ig": "contribution",
    "conductance": "contribution",
    "deconvnet": "sensitivity",
    "deep_taylor": "contribution",
    "deeplift": "contribution",
    "deeplift_shap": "contribution",
    "eigencam": "value",
    "eigengradcam": "contribution",
    "elementwise_cam": "contribution",
    "excitation_backprop": "importance",
    "expected_gradients": "contribution",
    "explainkit.methods.path.xrai.BlackAndWhite": "contribution",
    "extremal_perturbation": "importance",
    "feature_ablation": "contribution",
    "finercam": "contribution",
    "full_gradient": "contribution",
    "gradcam": "contribution",
    "gradcam_plus_plus": "contribution",
    "gradient_rollout": "importance",
    "gradient_shap": "contribution",
    "guided_backprop": "sensitivity",
    "guided_gradcam": "sensitivity",
    "guided_ig": "contribution",
    "hirescam": "contribution",
    "hsic": "importance",
    "idgi": "contribution",
    "input_x_gradient": "contribution",
    "integrated_gradients": "contribution",
    "internal_influence": "sensitivity",
    "kernel_shap": "contribution",
    "kpca_cam": "value",
    "layercam": "contribution",
    "legrad": "importance",
    "libragrad": "base",
    "lime": "contribution",
    "lrp": "contribution",
    "meaningful_perturbation": "importance",
    "occlusion": "contribution",
    "partition_shap": "contribution",
    "recipro_cam": "contribution",
    "rise": "contribution",
    "saliency": "sensitivity",
    "score_cam": "contribution",
    "shapley_sampling": "contribution",
    "shapleycam": "contribution",
    "smoothgrad": "base",
    "smoothgrad_squared": "importance",
    "sobol": "importance",
    "vargrad": "importance",
    "xgradcam": "contribution",
    "xrai": "base",
}
"""Core methods by name; the map of one marked ``base`` means what its base method's map means."""


def meaning(method: str, params: Mapping[str, Any]) -> Meaning:
    """What a value of a method's map is; ``value`` where that is not known.

    Examples:
        >>> meaning("explainkit/saliency", {"absolute": False})
        'sensitivity'
        >>> meaning("explainkit/saliency", {"absolute": True}), meaning("plugin/saliency", {})
        ('importance', 'value')
    """
    found = MEANINGS.get(method.removeprefix("explainkit/"), "value")
    if found == "base":
        base = params.get("base", {})
        return meaning(base.get("method", ""), base)
    return "importance" if params.get("absolute") is True else found


def legend(
    explanations: "Sequence[Explanation]", positive: str = "red", negative: str = "blue"
) -> str:
    """What the colors mean: one sentence, or one for each kind of method."""
    methods: dict[str, list[str]] = {}
    for one in explanations:
        names = methods.setdefault(_sentence(one, positive, negative), [])
        names.append(bare_name(one.method))
    if len(methods) == 1:
        (sentence,) = methods
        return sentence[0].upper() + sentence[1:]
    return "; ".join(
        f"{', '.join(dict.fromkeys(names))}: {sentence}" for sentence, names in methods.items()
    )


def _sentence(one: "Explanation", positive: str, negative: str) -> str:
    what = "a larger value" if one.at else "brighter"
    goal = "score" if one.expression is not None else "class"
    return {
        "sensitivity": f"{what} here raises ({positive}) or lowers ({negative}) the score",
        "contribution": f"speaks for ({positive}) or against ({negative}) the explained {goal}",
        "importance": "the stronger the color, the more important",
        "value": f"{positive}: positive values, {negative}: negative values",
    }[meaning(one.method, one.params)]
