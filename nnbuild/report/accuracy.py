"""The accuracy of one model: what `accuracy` found, as `<name>.accuracy.json`, held against its bounds.

Schema 2: `name`, `model_id`, `evaluated_by` (what computed the integers: the compiler of the generated C, such as "gcc
12.2.0", or "reference"), `samples`, `agreement`, `top1`, `top1_float` in percent, `drop` (what top-1 loses by the
integers, in points), `sqnr_db`; `layers` [{index, name, node, op, sqnr_db, added_db, isolated_db, saturation,
weight_scales}], index and name as in the model's report, by the integer reference over `layer_samples` of the samples;
`worst` [{sample, sqnr_db, float, int8}] and `confusions` [{float, int8, count}] with the arg-max of both.
What cannot be said is null: the agreement of a model whose first output is one number, top-1 without labels, a layer
without a counterpart in the float model. Standard library only: a bound is checked without numpy.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnbuild.config import BOUNDS
from nnbuild.errors import ConfigError
from nnbuild.report import hints
from nnbuild.report.budget import Verdict

if TYPE_CHECKING:
    from nnbuild.report.usage import ModelUsage

SCHEMA = 2
REFERENCE = "reference"
LAYERS_BY = "integer reference"

CEILING = 200.0
"""dB that stand for no difference at all, and negative for nothing but noise: JSON has no infinity."""

_MAKE = "make it with `python -m nnbuild accuracy ... --json`"


@dataclass(frozen=True, slots=True)
class LayerAccuracy:
    """A layer's output against the float model's value.

    `sqnr_db` is with the errors of all layers before it. `added_db` is the SQNR that the noise which this layer adds to
    them would give alone, as far as noises add up; None where it adds none. `isolated_db` is that of the layer by
    itself, on what the float model has at its inputs, quantized; `saturation` is the percentage of that noise which
    values outside of the output's range make. `weight_scales` is how many multipliers a layer with weights has.
    """

    index: int
    name: str
    node: str
    op: str
    sqnr_db: float | None
    added_db: float | None
    isolated_db: float | None
    saturation: float | None
    weight_scales: int | None

    @property
    def loses(self) -> bool:
        """Whether it does by itself."""
        return self.isolated_db is not None and self.isolated_db < CEILING


@dataclass(frozen=True, slots=True)
class WorstSample:
    """A sample with a low SQNR of its outputs, and the arg-max of both models."""

    sample: int
    sqnr_db: float
    float: int
    int8: int


@dataclass(frozen=True, slots=True)
class Confusion:
    """How many samples have this arg-max in float and that one in int8."""

    float: int
    int8: int
    count: int


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Shares are in percent, SQNR in dB; see the module for what may be None."""

    name: str
    model_id: str
    evaluated_by: str
    samples: int
    agreement: float | None
    sqnr_db: float
    top1: float | None
    top1_float: float | None
    drop: float | None
    layer_samples: int
    layers: tuple[LayerAccuracy, ...]
    worst: tuple[WorstSample, ...]
    confusions: tuple[Confusion, ...]

    def to_json(self) -> str:
        """The text of `<name>.accuracy.json`."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1, ensure_ascii=True) + "\n"

    @classmethod
    def read(cls, path: str | Path) -> Accuracy:
        """Read what `to_json` wrote; ConfigError where it is something else."""
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read: {error.strerror or error}", str(path), _MAKE) from None
        except (ValueError, RecursionError):
            raise ConfigError("not an accuracy report", str(path), _MAKE) from None
        try:
            if document.pop("schema") != SCHEMA:
                raise ValueError
            return cls(**_typed(document))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ConfigError("not an accuracy report of this version", str(path), _MAKE) from None


_ROWS = {"layers": LayerAccuracy, "worst": WorstSample, "confusions": Confusion}
_TYPES: dict[Any, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "int | None": (int, type(None)),
    "float": (int, float),
    "float | None": (int, float, type(None)),
}


def _typed(document: dict[str, Any]) -> dict[str, Any]:
    """The fields of `Accuracy`; ValueError, KeyError or TypeError where they are not."""
    _check(Accuracy, document)
    return {**document, **{key: tuple(_row(kind, entry) for entry in document[key]) for key, kind in _ROWS.items()}}


def _row(kind: Any, entry: dict[str, Any]) -> Any:
    _check(kind, entry)
    return kind(**entry)


def _check(kind: Any, entry: dict[str, Any]) -> None:
    for field in fields(kind):
        if field.type in _TYPES and not isinstance(entry[field.name], _TYPES[field.type]):
            raise ValueError


def join(models: Sequence[ModelUsage], reports: Sequence[str], limits: Iterable[tuple[ModelUsage, str, float]]) -> None:
    """Give each model its accuracy report, and the bounds among `limits` (model, kind, limit).

    ConfigError for a report of another network than the model's, and for a bound without a report.
    """
    by_name = {model.report.name: model for model in models}
    for path in reports:
        found = Accuracy.read(path)
        model = by_name.get(found.name)
        if model is None or model.report.model_id != found.model_id:
            raise ConfigError(f"is of network {found.name} {found.model_id}, which is not here", path, "build it again")
        model.accuracy = found
    for model, kind, limit in limits:
        if kind in BOUNDS:
            if model.accuracy is None:
                raise ConfigError(f"--model-budget {model.report.name}.{kind} needs --accuracy-report")
            model.bounds[kind] = limit


def in_document(model: ModelUsage) -> dict[str, Any] | None:
    """`models[].accuracy` of fw.size.json."""
    found = model.accuracy
    if found is None:
        return None
    of_layer = ("index", "name", "sqnr_db", "added_db", "isolated_db", "saturation")
    return {
        **{key: getattr(found, key) for key in _SHOWN},
        "min_agreement": _percent(model.bounds.get("agreement")),
        "min_sqnr": model.bounds.get("sqnr"),
        "max_drop": _percent(model.bounds.get("drop")),
        "by": LAYERS_BY,
        "layers": [{key: getattr(layer, key) for key in of_layer} for layer in found.layers],
        "worst": [asdict(sample) for sample in found.worst],
        "confusions": [asdict(pair) for pair in found.confusions],
    }


_SHOWN = ("evaluated_by", "samples", "agreement", "sqnr_db", "top1", "top1_float", "drop", "layer_samples")


def of_layer(key: str) -> Callable[[ModelUsage, Mapping[str, Any]], float | None]:
    """What gives `models[].layers[].<key>` of fw.size.json."""

    def figure(model: ModelUsage, layer: Mapping[str, Any]) -> float | None:
        layers = model.accuracy.layers if model.accuracy is not None else ()
        return next((getattr(found, key) for found in layers if found.name == layer["name"]), None)

    return figure


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 4)


def verdicts(found: Accuracy, bounds: Mapping[str, float]) -> list[Verdict]:
    """The bounds that are given, by their names in BOUNDS, each held against what was found."""
    held = []
    hint = hints.accuracy(found)
    if "agreement" in bounds:
        agreement_hint = hint if found.agreement is not None else f"{_NO_CLASS}, give min_sqnr instead"
        bound = round(100 * bounds["agreement"], 4)
        held.append(
            Verdict(f"{found.name} agreement", found.agreement, bound, "percent", agreement_hint, at_least=True)
        )
    if "sqnr" in bounds:
        held.append(Verdict(f"{found.name} sqnr", found.sqnr_db, bounds["sqnr"], "dB", hint, at_least=True))
    if "drop" in bounds:
        unknown = (
            "the validation data have no labels, array 'y' of the .npz" if found.agreement is not None else _NO_CLASS
        )
        bound = round(100 * bounds["drop"], 4)
        held.append(
            Verdict(f"{found.name} drop", found.drop, bound, "points", hint if found.drop is not None else unknown)
        )
    return held


_NO_CLASS = "the output is one number"
