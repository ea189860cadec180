"""Snippets of docs/how-to/use-a-method.md; run by tests/test_docs.py."""

# --8<-- [start:use]
import explainkit as ek

model = ek.load_model("fer_hw3/cnn")
faces = ek.load_dataset("fer_hw3/synthetic", split="public_test").images[:2]

explanation = ek.explain(model, faces, method="integrated_gradients", steps=10)
explanation.attribution.shape  # [2, 1, 48, 48]
explanation.target  # the predicted class of each
explanation.diagnostics["completeness_gap"]  # relative error of the map's sum
# --8<-- [end:use]

# --8<-- [start:several]
found = ek.explain(model, faces, method=["saliency", "gradcam"], targets=["happy", "sad"])
found.get(method="gradcam", target="sad").plot()
# --8<-- [end:several]

# --8<-- [start:classes]
from explainkit.methods import IntegratedGradients, SmoothGrad

smooth = SmoothGrad(base=IntegratedGradients(steps=4), samples=3, seed=5)
ek.explain(model, faces, method=smooth)
# --8<-- [end:classes]

# --8<-- [start:draw]
heat = explanation.heatmap(reduce="sum")  # [2, 48, 48]
figure = explanation.plot(scaling="percentile:99")
explanation.save("explanation")
# --8<-- [end:draw]

assert heat.shape == (2, 48, 48)
assert ek.Explanation.load("explanation").method == "explainkit/integrated_gradients"

# --8<-- [start:captum]
from captum.attr import IntegratedGradients as CaptumIG
from captum.attr import NoiseTunnel

theirs = ek.interop.captum.from_captum(CaptumIG, n_steps=4)
ek.explain(model, faces[:1], method=[theirs, "integrated_gradients"], steps=4)  # side by side

ours = ek.interop.captum.to_captum(model, "lrp")
NoiseTunnel(ours).attribute(faces[:1], nt_samples=2, stdevs=0.1, target=3)
# --8<-- [end:captum]
