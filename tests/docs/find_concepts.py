"""Snippets of docs/how-to/find-concepts.md; run by tests/test_docs.py."""

# --8<-- [start:find]
import torch

import explainkit as ek

net = torch.nn.Sequential(
    torch.nn.Conv2d(1, 8, 5), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
    torch.nn.Linear(8, 3),
).eval()  # fmt: skip
images = torch.rand(200, 1, 16, 16)  # or a folder, a list of paths, a data set, a store

found = ek.concepts(net, images, layer="1", n=3)
found.importance  # what each class's score loses without each concept: [concept, class]
found.ranked(2)  # the concepts of class 2, the most important first
found.notes  # how far to trust them
found.plot()
# --8<-- [end:find]
assert found.importance.shape == (3, 3)
assert sorted(found.ranked(2)) == [0, 1, 2]

# --8<-- [start:look]
best = found.exemplars(0)[0]
best.name, best.box, best.crop  # an image, and where concept 0 is most active in it

found.map(0, torch.rand(2, 1, 16, 16)).plot()  # concept 0 over other images
ek.explain(net, images[:2], found[0], "integrated_gradients")  # which pixels activate it
maximized = ek.maximize(net, list(found), shape=(1, 16, 16), steps=8)
found.report("concepts.html", names=["edges", "dots", ""], maximized=maximized)
# --8<-- [end:look]
assert best.image.shape == (1, 16, 16)

# --8<-- [start:other]
store = ek.batch({str(i): image for i, image in enumerate(images)}, net, "saliency", "store")
ek.concepts(net, store, layer="1", n=3)  # of the images that a job has explained

dictionary = torch.rand(5, 8)  # [n, channel], such as the decoder of a sparse autoencoder
given = ek.concepts(net, images, layer="1", directions=dictionary)

varied = ek.concepts(net, images, layer="1", n=3, importance="sobol")
varied.importance  # the share of each score's variance that is due to a concept
# --8<-- [end:other]
assert given.kind == "given"
assert varied.importance.max() <= 1.5

# --8<-- [start:keep]
found.save("concepts")
again = ek.Concepts.load("concepts")
again.map(0, images[:1], model=net)  # saved concepts do not hold the model
# --8<-- [end:keep]
assert len(again) == 3
