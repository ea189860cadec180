"""Snippets of docs/coming-from/quantus.md; run where Quantus is installed."""

import warnings

import torch

import explainkit as ek
from explainkit.testing import toy_models

warnings.simplefilter("ignore")
model, images = toy_models()["plain"]
masks = torch.zeros(4, 12, 10, dtype=torch.bool)
masks[:, 3:8, 2:6] = True

# --8<-- [start:maps]
explanation = ek.explain(model, images, method="integrated_gradients", steps=20)
maps, target = explanation.attribution, explanation.target
# --8<-- [end:maps]

# --8<-- [start:theirs_flip]
import quantus

curves = quantus.PixelFlipping(
    features_in_step=6, perturb_baseline="black", abs=False, normalise=False, disable_warnings=True
)(model, images.numpy(), target.numpy(), maps.numpy())
# --8<-- [end:theirs_flip]

# --8<-- [start:flip]
from explainkit.metrics import deletion

deletion(model, images, maps, target, steps=20)  # the area under each curve, [4]
# --8<-- [end:flip]

# --8<-- [start:theirs_mass]
positive = maps.sum(1, keepdim=True).clamp(min=0).numpy()
shares = quantus.RelevanceMassAccuracy(abs=False, normalise=False, disable_warnings=True)(
    model, images.numpy(), target.numpy(), positive, s_batch=masks[:, None].numpy()
)
# --8<-- [end:theirs_mass]

# --8<-- [start:mass]
from explainkit.metrics import area_share, mass_accuracy

mass_accuracy(maps, masks)
area_share(masks)  # what a map that knows nothing gets
# --8<-- [end:mass]
assert torch.allclose(mass_accuracy(maps, masks), torch.tensor(shares).double(), atol=1e-5)

# --8<-- [start:theirs_mprt]
quantus.MPRT(
    similarity_func=quantus.similarity_func.correlation_spearman,
    disable_warnings=True,
    display_progressbar=False,
)(
    model,
    images.numpy(),
    target.numpy(),
    explain_func=quantus.explain,
    explain_func_kwargs={"method": "Saliency"},
)
# --8<-- [end:theirs_mprt]

# --8<-- [start:mprt]
from explainkit.metrics import mprt

mprt(model, images, "saliency")  # all layers at once
# --8<-- [end:mprt]

# --8<-- [start:theirs_sensitivity]
quantus.MaxSensitivity(nr_samples=4, lower_bound=0.02, disable_warnings=True)(
    model,
    images.numpy(),
    target.numpy(),
    explain_func=quantus.explain,
    explain_func_kwargs={"method": "Saliency"},
)
# --8<-- [end:theirs_sensitivity]

# --8<-- [start:sensitivity]
from explainkit.metrics import max_sensitivity

max_sensitivity(model, images, "saliency", samples=4)
# --8<-- [end:sensitivity]

# --8<-- [start:both]
quantus.MaxSensitivity(nr_samples=4, lower_bound=0.02, disable_warnings=True)(
    model,
    images.numpy(),
    target.numpy(),
    explain_func=ek.interop.quantus.explain_func,  # any of our methods in their metrics
    explain_func_kwargs={"method": "lrp"},
)
# --8<-- [end:both]
