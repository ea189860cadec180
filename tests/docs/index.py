"""The snippet of docs/index.md; it draws docs/assets/methods.png."""

# --8<-- [start:explain]
import explainkit as ek

face = ek.load_dataset("fer_hw3/synthetic", split="all").images[[12]]
methods = ["integrated_gradients", "lrp", "gradcam", "occlusion"]
ek.explain("fer_hw3/cnn", face, method=methods).plot()
# --8<-- [end:explain]
