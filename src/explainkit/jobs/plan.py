"""What a job computes and how, fixed before it starts: every shard is a function of the plan."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from explainkit.adapters.images import preprocessing_of
from explainkit.adapters.preprocessing import Preprocessing
from explainkit.catalog.factories import method_name, method_params
from explainkit.engine.precision import Precision
from explainkit.engine.record import model_name, outputs_of, versions
from explainkit.errors import StorageError
from explainkit.files import read_regular, reason, write_atomically
from explainkit.hashes import plain_params, weights_hash
from explainkit.interfaces import Method
from explainkit.jobs.items import Items

SCHEMA_VERSION = 3

PLAN = "plan.json"
ITEMS = "items.txt"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A job. Whoever computes a shard of the same plan on the same kind of machine gets its bits.

    Attributes:
        items: Number, hash and offsets of the sorted items.
        model: Its name, and the hashes of its weights and of what happens to images before it.
        methods: Names and parameters.
        target: The class or the text of the expression; None: the predicted class.
        seed: Random seed; None: the methods' own.
        library: Versions of explainkit, torch and the plugins involved.
        device: Type of the device, such as ``"cpu"``.
        dtype: How maps are stored.
        map_size: The most rows and columns of a stored map; None: all.
        scorecard: Whether each map is tested against what hiding parts of its image does.
        precision: Of the methods' forwards; None: the model's own.
        explained: Names of those of several inputs that have maps; empty: items are images.
        batch_size: Images run at once; smaller batches are padded to it.
        threads: Threads of one worker.
        shard_size: Items of a shard.
        inputs: Whether the store keeps the model's inputs: their source can't be read again.
        source: Where the images are; not part of the hash.
        preprocessing: What happens to an image first, as `Preprocessing.to_dict` gives it.
        command: The command line that resumes the job; not part of the hash.
    """

    items: Items
    model: Mapping[str, str]
    methods: Sequence[Mapping[str, Any]]
    target: int | str | None
    seed: int | None
    library: Mapping[str, str]
    device: str
    dtype: str
    batch_size: int
    threads: int
    shard_size: int
    inputs: bool
    source: Mapping[str, str] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    map_size: tuple[int, int] | None = None
    scorecard: bool = False
    precision: Precision | None = None
    explained: tuple[str, ...] = ()

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the maps of an item, in order."""
        parts = self.explained or (None,)
        return tuple(map_name(one["method"], part) for one in self.methods for part in parts)

    @property
    def shards(self) -> int:
        """The number of shards."""
        return len(self.items.offsets) - 1

    def size_of(self, shard: int) -> int:
        """The number of items of a shard."""
        return min(self.shard_size, self.items.count - shard * self.shard_size)

    @property
    def question(self) -> dict[str, Any]:
        """What is computed: two jobs with the same question have the same result."""
        return {
            "images": f"{self.items.count}, list {self.items.sha256[:12]}",
            **{f"model {name}": value for name, value in self.model.items()},
            "methods": list(self.methods),
            "target": self.target,
            "seed": self.seed,
            **{f"version of {name}": value for name, value in self.library.items()},
            "device": self.device,
            "dtype": self.dtype,
            # left out where they change nothing: plans of version 1 had none of them
            **({} if self.map_size is None else {"map size": list(self.map_size)}),
            **({"scorecard": True} if self.scorecard else {}),
            **({"precision": self.precision} if self.precision else {}),
            **({"explained inputs": list(self.explained)} if self.explained else {}),
        }

    @property
    def hash(self) -> str:
        """The sha256 of all that decides the bits of a result."""
        fields = self.question | {
            "items": self.items.sha256,
            "batch_size": self.batch_size,
            "threads": self.threads,
            "shard_size": self.shard_size,
            "inputs": self.inputs,
        }
        return _hash_of(fields)

    def differences(self, other: "Plan") -> list[str]:
        """What another plan asks differently, one line each: "seed: 0 in the store, 1 now"."""
        mine, theirs = self.question, other.question
        return [
            f"{name}: {_shown(mine.get(name))} in the store, {_shown(theirs.get(name))} now"
            for name in mine | theirs
            if mine.get(name) != theirs.get(name)
        ]

    def save(self, folder: Path) -> None:
        """Writes the plan into the folder of a store, atomically."""
        record = {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self), "hash": self.hash}
        write_atomically(folder / PLAN, json.dumps(sealed(record), indent=1).encode())

    @staticmethod
    def load(folder: Path) -> "Plan":
        """The plan of a store.

        Raises:
            StorageError: There is none, or it was changed, or is of a newer version.
        """
        record = load_sealed(folder / PLAN, "plan")
        try:
            if record["schema_version"] not in range(1, SCHEMA_VERSION + 1):
                raise StorageError(
                    f"expected schema_version 1 to {SCHEMA_VERSION} in {folder / PLAN}, got "
                    f"{record['schema_version']!r}: update explainkit-vision"
                )
            if record["schema_version"] == 1:
                record |= {"map_size": None, "scorecard": False, "precision": None}
            if record["schema_version"] < 3:
                record["explained"] = ()
            fields = {one.name: record[one.name] for one in dataclasses.fields(Plan)}
            fields["map_size"] = fields["map_size"] and tuple(fields["map_size"])
            fields["explained"] = tuple(fields["explained"])
            items = fields.pop("items")
            plan = Plan(items=Items(**items | {"offsets": tuple(items["offsets"])}), **fields)
            if plan.hash != record["hash"]:
                raise StorageError(f"{folder / PLAN} was changed: its hash does not match")
        except (KeyError, TypeError) as error:
            raise StorageError(f"{folder / PLAN} is not a plan, or was changed: {error}") from error
        return plan


def map_name(method: str, part: str | None) -> str:
    """The name of a method's map, and of the input that it is of if an item has several.

    Examples:
        >>> map_name("explainkit/lrp", None), map_name("explainkit/lrp", "depth")
        ('explainkit/lrp', 'explainkit/lrp depth')
    """
    return method if part is None else f"{method} {part}"


def preprocessing_for(module: nn.Module, explained: Sequence[str]) -> Preprocessing:
    """What happens to an image before the model; nothing to several inputs, which are tensors."""
    return Preprocessing(known=False) if explained else preprocessing_of(module)


def described_model(module: nn.Module, explained: Sequence[str] = ()) -> dict[str, str]:
    """The name of a model, and hashes of all that decides its results.

    Args:
        module: The model.
        explained: As in `Plan`.
    """
    outputs = outputs_of(module)
    known = [outputs.output, outputs.task, list(outputs.class_names)]
    return {
        "name": model_name(module),
        "weights": weights_hash(module)[:16],
        "preprocessing": _hash_of(preprocessing_for(module, explained).to_dict())[:16],
        "outputs": _hash_of(known)[:16],
    }


def described_methods(methods: Iterable[Method]) -> list[dict[str, Any]]:
    """Names and parameters of methods as JSON; a tensor is its hash."""
    return [
        {"method": method_name(method), "params": plain_params(method_params(method))}
        for method in methods
    ]


def library_versions(module: nn.Module, methods: Iterable[str]) -> dict[str, str]:
    """Versions of all that computes, for methods by name; Python's does not matter."""
    found: dict[str, str] = {}
    for method in methods:
        found |= versions(method, module)
    return {name: version for name, version in sorted(found.items()) if name != "python"}


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """A record with the hash of its content."""
    return record | {"sha256": _hash_of(record)}


def load_sealed(path: Path, noun: str) -> dict[str, Any]:
    """A JSON file that was written with its hash.

    Raises:
        StorageError: It can't be read, or was changed.
    """
    try:
        record = json.loads(read_regular(path))
    except OSError as error:
        raise StorageError(f"expected a {noun} at {path}: {reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise StorageError(f"expected JSON in {path}: {error}") from error
    if not isinstance(record, dict) or record != sealed(
        {name: value for name, value in record.items() if name != "sha256"}
    ):
        raise StorageError(f"{path} was changed: its sha256 does not match")
    return record


def _hash_of(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
