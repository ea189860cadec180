"""The plugin's images: FER2013 in all its file forms, synthetic faces, and any photo."""

from dataclasses import replace

from explainkit.interfaces import DatasetSpec
from explainkit_fer_hw3.data.dataset import FaceDataset as FaceDataset
from explainkit_fer_hw3.data.fer2013 import (
    known_splits as known_splits,
)
from explainkit_fer_hw3.data.fer2013 import (
    load_fer2013 as load_fer2013,
)
from explainkit_fer_hw3.data.photo import read_image as read_image
from explainkit_fer_hw3.data.splits import SPLITS
from explainkit_fer_hw3.data.synthetic import load_synthetic as load_synthetic
from explainkit_fer_hw3.faces import CLASS_NAMES
from explainkit_fer_hw3.models import MEAN, STD

FER2013 = DatasetSpec(
    load=load_fer2013,
    class_names=CLASS_NAMES,
    image_shape=(1, 48, 48),
    mean=(MEAN,),
    std=(STD,),
    splits=(*SPLITS, "all"),
    source="Kaggle's 2013 facial expression challenge (Goodfellow et al., 2013, arXiv:1307.0414)",
    license="research data under the challenge's own terms; not part of this package",
    summary="FER2013: 48×48 gray faces, seven expressions; a CSV, a folder, or a zip of either.",
)

SYNTHETIC = replace(
    FER2013,
    load=load_synthetic,
    source="drawn on the spot by explainkit_fer_hw3.faces",
    license="Apache-2.0",
    summary="Synthetic faces: seven expressions from action units, with the exact mask of every part.",
)
