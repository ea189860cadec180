"""A small FER2013 as bytes, in every format in use."""

import io
import zipfile

from PIL import Image

from explainkit_fer_hw3.faces import CLASS_NAMES

COUNT = 28
USAGES = ["Training"] * 21 + ["PublicTest"] * 4 + ["PrivateTest"] * 3


def text(pixels):
    return " ".join(map(str, pixels.flatten().tolist()))


def table(images, form):
    """The bytes of a table in one of the formats."""
    pixels, labels = images
    rows = list(zip(range(COUNT), labels.tolist(), map(text, pixels), USAGES, strict=True))
    lines = {
        "fer2013": ["emotion,pixels,Usage", *(f"{label},{p},{use}" for _, label, p, use in rows)],
        "icml": ["emotion, Usage, pixels", *(f"{label}, {use}, {p}" for _, label, p, use in rows)],
        "train": ["label,feature", *(f"{label},{p}" for _, label, p, _ in rows)],
        "test": ["id,feature", *(f"{i},{p}" for i, _, p, _ in rows)],
        "quoted": ['"emotion","pixels","Usage"', *(f'"{n}","{p}","{u}"' for _, n, p, u in rows)],
    }  # fmt: skip
    return ("\n".join(lines[form]) + "\n").encode()


TABLES = ("fer2013", "icml", "train", "test", "quoted")


def tree(images):
    """Path in the tree to PNG bytes, in file order of the tables."""
    pixels, labels = images
    files = {}
    for i in range(COUNT):
        buffer = io.BytesIO()
        Image.fromarray(pixels[i]).save(buffer, "PNG")
        folder = "train" if USAGES[i] == "Training" else "test"
        name = CLASS_NAMES[labels[i]]
        files[f"{folder}/{name}/{USAGES[i]}_{i:05}.png"] = buffer.getvalue()
    return files


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def unpack(files, folder):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder
