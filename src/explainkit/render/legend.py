"""What the colors of a map mean, method by method."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from explainkit.catalog.synonyms import bare_name
from explainkit.scores import NOUNS

if TYPE_CHECKING:
    from explainkit.results.explanation import Explanation

Meaning = Literal["sensitivity", "contribution", "importance", "value"]
"""What a value of a map is: the score's change per unit of the input, a share of the score, a
strength without a sign, or none of these."""

_NAMES: Mapping[Meaning | Literal["base"], str] = {
    "sensitivity": "deconvnet guided_backprop guided_gradcam internal_influence saliency",
    "contribution": """
        ablation_cam attn_lrp blur_ig conductance deep_taylor deeplift deeplift_shap
        eigengradcam elementwise_cam expected_gradients
        explainkit.methods.path.xrai.BlackAndWhite feature_ablation finercam full_gradient
        gradcam gradcam_plus_plus gradient_shap guided_ig hirescam idgi input_x_gradient
        integrated_gradients kernel_shap layercam lime lrp occlusion partition_shap recipro_cam
        rise score_cam shapley_sampling shapleycam xgradcam
    """,
    "importance": """
        attention_rollout excitation_backprop extremal_perturbation gradient_rollout hsic legrad
        meaningful_perturbation smoothgrad_squared sobol vargrad
    """,
    "value": "eigencam kpca_cam",
    "base": "aug_smooth libragrad smoothgrad xrai",
}

MEANINGS = {name: meaning for meaning, names in _NAMES.items() for name in names.split()}
"""Core methods by name; the map of one marked ``base`` means what its base method's map means."""


def meaning(method: str, params: Mapping[str, Any]) -> Meaning:
    """What a value of a method's map is; ``value`` where that is not known.

    Examples:
        >>> meaning("explainkit/saliency", {"absolute": False})
        'sensitivity'
        >>> meaning("explainkit/saliency", {"absolute": True}), meaning("plugin/saliency", {})
        ('importance', 'value')
        >>> meaning("explainkit/deeplift", {"multiply_by_inputs": False})
        'sensitivity'
    """
    found = MEANINGS.get(method.removeprefix("explainkit/"), "value")
    if found == "base":
        base = params.get("base", {})
        return meaning(base.get("method", ""), base)
    if params.get("multiply_by_inputs") is False:
        return "sensitivity"
    return "importance" if params.get("absolute") is True else found


def legend(explanations: "Sequence[Explanation]", cmap: str | None = None) -> str:
    """What the colors mean: one sentence, or one for each kind of method.

    Args:
        explanations: Whose maps are drawn.
        cmap: Name of the color map; None: red and blue.
    """
    positive, negative = ("top of the scale", "bottom") if cmap else ("red", "blue")
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
    goal = "score" if one.expression is not None else NOUNS[one.task]
    return {
        "sensitivity": f"{what} here raises ({positive}) or lowers ({negative}) the score",
        "contribution": f"evidence for ({positive}) or against ({negative}) the explained {goal}",
        "importance": "the stronger the color, the more important",
        "value": f"{positive}: positive values, {negative}: negative values",
    }[meaning(one.method, one.params)]


def joined(notes: Sequence[str]) -> str:
    """Notes as one text: those that start with a capital are sentences of their own."""
    text = ""
    for note in notes:
        separator = ". " if note[:1].isupper() else "; "
        text += (separator if text else "") + note.rstrip(".")
    return text
