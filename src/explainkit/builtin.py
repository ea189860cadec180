"""What the core itself brings: it is the plugin ``explainkit`` and uses the hooks of any other."""

from collections.abc import Mapping

from explainkit.hookspecs import hookimpl


@hookimpl
def explainkit_methods() -> Mapping[str, str]:
    """The core's methods, by name so that torch is imported only when one is used."""
    return {
        "input_x_gradient": "explainkit.methods.gradient:InputXGradient",
        "integrated_gradients": "explainkit.methods.gradient:IntegratedGradients",
        "saliency": "explainkit.methods.gradient:Saliency",
        "smoothgrad": "explainkit.methods.gradient:SmoothGrad",
        "smoothgrad_squared": "explainkit.methods.gradient:SmoothGradSquared",
        "vargrad": "explainkit.methods.gradient:VarGrad",
    }
