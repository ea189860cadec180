"""Verifies saved explanations and reports: files, images, library, model and numbers."""

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from explainkit.adapters.decoding import read, read_bytes
from explainkit.adapters.preprocessing import Preprocessing
from explainkit.api import explain
from explainkit.catalog import discovery
from explainkit.catalog.factories import method_from
from explainkit.catalog.models import load_model
from explainkit.engine.receipts import described_preprocessing
from explainkit.engine.record import model_name, versions
from explainkit.errors import ExplainkitError, StorageError
from explainkit.files import read_regular, reason
from explainkit.hashes import weights_hash
from explainkit.jobs.checks import (
    HALF,
    TOLERANCE,
    Check,
    difference,
    first_of,
    library_check,
    numbers_check,
)
from explainkit.jobs.reduction import REDUCED, area_means
from explainkit.layers import floating_tensor
from explainkit.methods.contract import for_images, seed_of
from explainkit.render.heatmap import Reduce
from explainkit.render.report.record import KEYS, is_sealed, is_whole, record_of, records, script
from explainkit.render.report.sheets import unpack
from explainkit.results.explanation import Explanation
from explainkit.results.storage import load

REPORT = ".html"
"""What the name of a report ends in."""

Model = nn.Module | Callable[[], nn.Module] | None


@dataclass(frozen=True)
class Saved:
    """An explanation that was saved, or is shown in a report.

    Attributes:
        record: What it was made from, as `record_of` gives it.
        params: The method's parameters; in a report, tensors are hashes.
        maps: ``[batch, channel, height, width]``, or ``[batch, height, width]`` in a report.
        inputs: The images as the model took them; None in a report.
        allowed: Largest relative difference of a map that is computed again.
        full: Height and width of a map that was stored at a smaller size.
    """

    record: Mapping[str, Any]
    params: Mapping[str, Any]
    maps: Tensor
    inputs: Tensor | None
    allowed: float = TOLERANCE
    full: Sequence[int] | None = None


def is_saved(path: Path) -> bool:
    """Whether a folder has a saved explanation."""
    return (path / "explanation.json").exists()


def found_model(name: str, model: Model) -> nn.Module | None:
    """The model that was given, or that of an installed plugin with this name.

    Other names are not followed: they may name code to run or files to download.
    """
    if model is not None:
        return model if isinstance(model, nn.Module) else model()
    if ":" in name or not discovery.registry("models").candidates(name):
        return None
    return load_model(name)


def verify_saved(path: Path, model: Model, recompute: int, seed: int) -> list[Check]:
    """The checks of `verify` for a saved explanation or a report.

    Raises:
        StorageError: There is no such file.
    """
    report = path.suffix == REPORT and not is_saved(path)
    if report and not path.is_file():
        raise StorageError(f"expected a report at {path}")
    try:
        saved = _report(path) if report else [_explanation(path)]
        if not saved:
            return [Check("files", "not checked", "a report without a sha256 of its own")]
    except StorageError as error:
        return [Check("files", "damaged", str(error))]
    count = len(saved[0].maps)
    methods = ", ".join(dict.fromkeys(one.record["method"] for one in saved))
    noun = "a report" if report else "an explanation"
    checks = [Check("files", "ok", f"{noun} of {count} images by {methods}")]
    if any(one.record["receipt"] is None for one in saved):
        return [*checks, Check("receipt", "not checked", "it was saved without a receipt")]
    images = _images(saved[0].record["receipt"]["images"])
    return [*checks, images, *_made(saved, model, recompute, seed)]


def _explanation(path: Path) -> Saved:
    found = load(Explanation, path)
    full = found.diagnostics.get(REDUCED)
    half = found.receipt is not None and found.receipt["dtype"] == "float16"
    # the record has hashes for tensors, the parameters have the tensors
    return Saved(
        record_of(found, "sum"), found.params, found.attribution, found.inputs,
        TOLERANCE + (HALF if half else 0), full,
    )  # fmt: skip


def _report(path: Path) -> list[Saved]:
    """The explanations of a report; none if it was written before reports had receipts."""
    try:
        text = read_regular(path).decode()
    except (OSError, ValueError) as error:
        raise StorageError(f"expected a report at {path}: {reason(error)}") from error
    if not is_sealed(text) and script(text, "data"):
        return []
    if not is_whole(text):
        raise StorageError(f"{path} is not a report, or was changed: its sha256 does not match")
    try:
        facts = json.loads(script(text, "data"))
        shape = facts["count"], *facts["input"]
        found = []
        for number, (record, packed) in enumerate(zip(records(text), facts["maps"], strict=True)):
            maps = unpack(script(text, f"values-{number}"), packed["kind"], packed["units"], shape)
            _check_record(record, facts["count"])
            allowed = TOLERANCE + (1 / 65534 if packed["kind"] == "i2" else 0)
            found.append(Saved(record, record["params"], torch.from_numpy(maps), None, allowed))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StorageError(f"{path} is not a report: {error}") from error
    return found


def _check_record(record: Any, count: int) -> None:
    """Raises ValueError unless a record has all its parts, of so many images."""
    receipt = record["receipt"]
    if not record.keys() >= set(KEYS) or (
        receipt is not None
        and (
            not receipt.keys() >= {"weights", "preprocessing", "images", "device", "dtype"}
            or len(receipt["images"]) != count
        )
    ):
        raise ValueError("a record is not complete")


def _images(listed: Sequence[Mapping[str, str]]) -> Check:
    """Whether the files of the images are those that were explained."""
    changed, missing, count = [], [], 0
    for one in listed:
        if not one.get("path"):
            continue
        count += 1
        try:
            now = hashlib.sha256(read_bytes(Path(one["path"]))).hexdigest()
        except ExplainkitError:
            missing.append(one["path"])
            continue
        if now != one["sha256"]:
            changed.append(one["path"])
    if changed:
        return Check("images", "differs", f"changed: {first_of(changed)}")
    if missing:
        return Check("images", "not checked", f"not found: {first_of(missing)}")
    return Check("images", "ok" if count else "not checked", f"{count} files")


def _made(saved: Sequence[Saved], model: Model, recompute: int, seed: int) -> Iterator[Check]:
    """Checks of the library, the models and the numbers, for each model."""
    names = list(dict.fromkeys(one.record["model"] for one in saved))
    given = found_model("", model)
    for name in names:
        mine = given if len(names) == 1 or (given and model_name(given) == name) else None
        module = mine if mine is not None else found_model(name, None)
        if module is None:
            yield Check("model", "not checked", f"no model was given: {name}")
            continue
        group = [one for one in saved if one.record["model"] == name]
        then: dict[str, str] = {}
        now: dict[str, str] = {}
        for one in group:
            then |= one.record["versions"]
            now |= versions(one.record["method"], module)
        yield library_check(_without_python(then), _without_python(now))
        yield _model(group[0].record, module)
        if recompute:
            yield _numbers(group, module, recompute, seed)


def _without_python(found: Mapping[str, str]) -> dict[str, str]:
    return {name: version for name, version in sorted(found.items()) if name != "python"}


def _model(record: Mapping[str, Any], module: nn.Module) -> Check:
    """Whether a model is the one that was explained."""
    receipt, now = record["receipt"], weights_hash(module)
    changed = []
    if record["model"] != model_name(module):
        changed.append(f"name: {record['model']} then, {model_name(module)} now")
    if receipt["weights"] and not now.startswith(receipt["weights"]):
        changed.append(f"weights: {receipt['weights'][:16]} then, {now[:16]} now")
    before = receipt["preprocessing"]
    if before is not None and before != described_preprocessing(module):
        changed.append("preprocessing")
    if changed:
        return Check("model", "differs", "; ".join(changed))
    if not receipt["weights"]:
        return Check("model", "not checked", "its weights had changed before it was saved")
    return Check("model", "ok", f"{record['model']}, weights {now[:16]}")


def _numbers(group: Sequence[Saved], module: nn.Module, recompute: int, seed: int) -> Check:
    """The largest difference between saved and recomputed maps."""
    count = len(group[0].maps)
    rows = sorted(random.Random(seed).sample(range(count), min(recompute, count)))  # noqa: S311
    worst, where = 0.0, ""
    for one in group:
        try:
            again = _again(one, module, rows)
        except ExplainkitError as error:
            return Check("numbers", "not checked", f"{one.record['method']}: {error}")
        for row, values in zip(rows, again, strict=True):
            apart = difference(one.maps[row].double(), values.double())
            if apart >= worst:
                worst, where = apart, f"image {row}, {one.record['method']}"
    return numbers_check(worst, where, len(rows), max(one.allowed for one in group))


def _again(saved: Saved, module: nn.Module, rows: Sequence[int]) -> Tensor:
    """The maps of some images, computed again as they were saved.

    Raises:
        ExplainkitError: Something that it takes is missing, or the model or the method fails.
    """
    record = saved.record
    expression = record["expression"]
    if (expression or "").startswith("function "):
        raise StorageError(f"{expression} was not saved")
    if saved.inputs is None and "$tensor" in json.dumps(record["params"]):
        raise StorageError("a report has the hashes of parameters that are tensors")
    method = method_from(record["method"], saved.params)
    like = floating_tensor(module)
    images = _inputs(saved, rows).to(like.device, like.dtype)
    shapes = [tuple(images.shape[1:]), tuple(images.shape[2:])]
    found: Explanation = explain(
        module,
        images,
        expression or torch.tensor([record["target"][row] for row in rows]),
        for_images(method, rows, len(saved.maps), shapes),
        at=record["at"],
        seed=record["seed"] if seed_of(method) is None else None,
        output=record["output"],
        task=None if record["task"] == "binary" else record["task"],
        class_names=record["class_names"] or None,
        precision=record["precision"],
    )
    if saved.inputs is None:
        reduce: Reduce = record["reduce"]
        return found.heatmap(reduce).cpu()
    maps = found.attribution.cpu()
    height, width = saved.maps.shape[-2:]
    return maps if saved.full is None else area_means(maps, (height, width))


def _inputs(saved: Saved, rows: Sequence[int]) -> Tensor:
    """The inputs of some images: as they were saved, or made again from the images' files."""
    if saved.inputs is not None:
        return saved.inputs[list(rows)]
    listed = [saved.record["receipt"]["images"][row] for row in rows]
    check = _images(listed)
    if check.verdict != "ok" or not all(one.get("path") for one in listed):
        raise StorageError(f"a report has no inputs, and of its images: {check.found}")
    receipt = saved.record["receipt"]
    preprocessing = Preprocessing.from_dict(receipt.get("applied") or receipt["preprocessing"])
    return torch.stack([preprocessing(read(Path(one["path"])))[0] for one in listed])
