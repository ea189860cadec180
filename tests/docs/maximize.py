"""The snippets of docs/how-to/maximize.md."""

# --8<-- [start:layer]
import torch

import explainkit as ek

net = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 5), torch.nn.ReLU()).eval()
found = ek.maximize(net, 'channels("0")', shape=(1, 24, 24), steps=64, frames=12)
found.grid().savefig("filters.png")
found.traces().savefig("traces.png")
found.animate("filters.gif")
found.save("filters")
# --8<-- [end:layer]
assert len(ek.Visualization.load("filters")) == 8

# --8<-- [start:algebra]
from explainkit.expressions import channels, tv

smooth = ek.maximize(net, channels("0", [0, 3]) - 0.5 * tv(), shape=(1, 24, 24), steps=32)
# --8<-- [end:algebra]
assert smooth.objective[1] == 'channel("0", 3) - 0.5 * tv()'

# --8<-- [start:exemplars]
from explainkit.activation_maximization.exemplars import find_exemplars, receptive_fields

faces = torch.rand(200, 1, 24, 24)
examples = find_exemplars(net, "0", faces, k=9)
fields = receptive_fields(net, "0", (1, 24, 24))
index, position = int(examples.top[3, 0]), examples.top_place[3, 0].tolist()
patch = fields.at(*position).crop(faces[index])
# --8<-- [end:exemplars]
assert patch.shape == (1, 5, 5)

# --8<-- [start:quality]
from explainkit.activation_maximization.quality import measure

measured = measure(found, net, faces)
print(measured.caption(0))
# --8<-- [end:quality]
assert 'log_odds("0", 1)' in ek.maximize(net, 'all_log_odds("0")', dataset=faces, steps=4).objective
assert "best real" in measured.caption(0)
