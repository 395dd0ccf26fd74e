"""The accuracy of one model: what `accuracy` found, as `<name>.accuracy.json`, held against its bounds.

Schema 1: `by` ("integer reference"), `name`, `model_id`, `samples`, `agreement`, `top1`, `top1_float` in percent,
`sqnr_db`; `layers` [{index, name, node, op, sqnr_db, added_db, weight_scales}], index and name as in the model's
report; `worst` [{sample, sqnr_db, float, int8}] and `confusions` [{float, int8, count}] with the arg-max of both.
What cannot be said is null: the agreement of a model whose first output is one number, top-1 without labels, a layer
without a counterpart in the float model. Standard library only: a bound is checked without numpy.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnbuild.errors import ConfigError
from nnbuild.report.budget import Verdict

if TYPE_CHECKING:
    from nnbuild.report.usage import ModelUsage

SCHEMA = 1
BY = "integer reference"

CEILING = 200.0
"""dB that stand for no difference at all, and negative for nothing but noise: JSON has no infinity."""

BOUNDS = ("agreement", "sqnr")
"""What a model can be asked for: a share of 1, and dB."""

_NOISIEST = 3
_MAKE = "make it with `python -m nnbuild accuracy ... --json`"


@dataclass(frozen=True, slots=True)
class LayerAccuracy:
    """A layer's output against the float model's value, with the errors of all layers before it.

    `added_db` is the SQNR that the noise which this layer adds would give alone, as far as noises add up; None where it
    adds none. `weight_scales` is how many different multipliers a layer with weights has.
    """

    index: int
    name: str
    node: str
    op: str
    sqnr_db: float | None
    added_db: float | None
    weight_scales: int | None


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
    samples: int
    agreement: float | None
    sqnr_db: float
    top1: float | None
    top1_float: float | None
    layers: tuple[LayerAccuracy, ...]
    worst: tuple[WorstSample, ...]
    confusions: tuple[Confusion, ...]

    def to_json(self) -> str:
        """`<name>.accuracy.json`."""
        return json.dumps({"schema": SCHEMA, "by": BY, **asdict(self)}, indent=1, ensure_ascii=True) + "\n"

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
            if document.pop("schema") != SCHEMA or document.pop("by") != BY:
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


def noisiest(layers: Sequence[LayerAccuracy]) -> list[LayerAccuracy]:
    """The layers that add most noise, most first."""
    adding = [(layer.added_db, layer.index, layer) for layer in layers if layer.added_db is not None]
    return [layer for _, _, layer in sorted(adding, key=lambda entry: entry[:2])[:_NOISIEST]]


def noise_line(found: Accuracy) -> str:
    """Where it is lost, in words; "" where no layer adds noise."""
    names = ", ".join(f"{layer.name} ({layer.added_db:.1f} dB)" for layer in noisiest(found.layers))
    return f"most noise is added by {names}" if names else ""


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
    share = model.bounds.get("agreement")
    return {
        "samples": found.samples,
        "agreement": found.agreement,
        "sqnr_db": found.sqnr_db,
        "min_agreement": None if share is None else round(100 * share, 4),
        "min_sqnr": model.bounds.get("sqnr"),
        "by": BY,
        "layers": [{key: getattr(layer, key) for key in ("index", "name", "sqnr_db")} for layer in found.layers],
    }


def of_layer(model: ModelUsage, layer: Mapping[str, Any]) -> float | None:
    """`models[].layers[].sqnr_db` of fw.size.json."""
    layers = model.accuracy.layers if model.accuracy is not None else ()
    return next((found.sqnr_db for found in layers if found.name == layer["name"]), None)


def verdicts(found: Accuracy, min_agreement: float | None, min_sqnr: float | None) -> list[Verdict]:
    """The bounds that are given, each held against what was found; `min_agreement` is a share of 1."""
    held = []
    hint = advice(found)
    if min_agreement is not None:
        agreement_hint = hint if found.agreement is not None else "the output is one number, give min_sqnr instead"
        bound = round(100 * min_agreement, 4)
        held.append(
            Verdict(f"{found.name} agreement", found.agreement, bound, "percent", agreement_hint, at_least=True)
        )
    if min_sqnr is not None:
        held.append(Verdict(f"{found.name} sqnr", found.sqnr_db, min_sqnr, "dB", hint, at_least=True))
    return held


def advice(found: Accuracy) -> str:
    """Which layers add most noise, and what to try."""
    tries = "try more, or more typical, calibration samples, or method='mse'"
    if any(layer.op == "fully_connected" and layer.weight_scales == 1 for layer in noisiest(found.layers)):
        tries += ", or fully_connected='per_channel'"
    return "; ".join(part for part in (noise_line(found), tries) if part)
