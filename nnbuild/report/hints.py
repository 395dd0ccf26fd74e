"""What would help where a budget is missed: parts separated by `; `, each derived from the report's own figures.

Nothing is promised that the report does not show. The parts stand in the order of what they concern: the largest
first, then options that would make it smaller.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nnbuild.errors import printable
from nnbuild.report import curve

if TYPE_CHECKING:
    from nnbuild.report.accuracy import Accuracy, LayerAccuracy

_LAYERS = 3
_NOTABLE = 0.1
"""Share of a budget below which saving something is not worth a line."""
_SATURATED = 50
"""Percent of a layer's noise from which on saturation is what to do something about."""

Model = Mapping[str, Any]
Layer = Mapping[str, Any]


def flash(document: Mapping[str, Any], value: int, model: str = "") -> str:
    """For a region of `value` bytes that holds code, or for the flash of one model."""
    models = _models(document, model)
    parts = [*_largest_layers(models, value), *_multipliers(models), *_smaller_kernels(models)]
    if not model:
        parts += _image_flash(document, value)
    return "; ".join(parts)


def ram(document: Mapping[str, Any], value: int, model: str = "") -> str:
    """For a region of `value` bytes that holds variables, or for the RAM of one model."""
    models = _models(document, model)
    parts = [part for each in models if each["arena_bytes"] >= _NOTABLE * value for part in _arena(each)]
    if not model:
        parts += _image_ram(document, value)
    return "; ".join(parts)


def stack(found: Mapping[str, Any] | None, layers: Sequence[Layer]) -> str:
    """For the worst-case stack of a model with `layers`: the way to it, or why it is not known."""
    if found is None:
        return "it is known when the model is linked"
    if found["bytes"] is None:
        return str(found["note"])
    parts = [f"deepest: {' -> '.join(found['path'])}"]
    called = {name.split(".")[0] for name in found["path"]}
    if any(name.startswith("arm_") for name in called):
        for layer in layers:
            if layer["function"] in called and "direct" in layer["reasons"]:
                parts.append(f"pins={{'{layer['name']}': 'direct'}} calls none of CMSIS-NN's functions there")
                break
    return "; ".join(parts)


def accuracy(found: Accuracy) -> str:
    """For agreement, drop or SQNR: which layers lose most, and what to try there."""
    most = worst_alone(found.layers)
    parts = [noise_line(found.layers), alone_line(found.layers)]
    if most is not None and (most.saturation or 0) >= _SATURATED:
        parts.append("try calibration samples whose values reach as far")
        parts.append("method='mse' weighs saturation against rounding, method='minmax' saturates no calibration sample")
    else:
        parts.append("try more, or more typical, calibration samples, or method='mse'")
    blamed = [*noisiest(found.layers), *([most] if most else [])]
    if any(layer.op == "fully_connected" and layer.weight_scales == 1 for layer in blamed):
        parts.append("fully_connected='per_channel' gives each output its own scale")
    return "; ".join(part for part in parts if part)


def noisiest(layers: Sequence[LayerAccuracy]) -> list[LayerAccuracy]:
    """The layers that add most noise, most first."""
    adding = [(layer.added_db, layer.index, layer) for layer in layers if layer.added_db is not None]
    return [layer for _, _, layer in sorted(adding, key=lambda entry: entry[:2])[:_LAYERS]]


def noise_line(layers: Sequence[LayerAccuracy]) -> str:
    """Where it is lost, in words; "" where no layer adds noise."""
    names = ", ".join(f"{layer.name} ({layer.added_db:.1f} dB)" for layer in noisiest(layers))
    return f"most noise is added by {names}" if names else ""


def worst_alone(layers: Sequence[LayerAccuracy]) -> LayerAccuracy | None:
    """The layer that loses most on exact inputs; None where none loses anything."""
    losing = [layer for layer in layers if layer.loses]
    return min(losing, key=lambda layer: (layer.isolated_db, layer.index), default=None)


def alone_line(layers: Sequence[LayerAccuracy]) -> str:
    """Which layer loses most by itself, in words; "" where none does."""
    most = worst_alone(layers)
    if most is None:
        return ""
    saturated = f", {most.saturation:.0f} % of that noise by saturation" if most.saturation else ""
    return f"alone, {most.name} loses most: {most.isolated_db:.1f} dB{saturated}"


def _models(document: Mapping[str, Any], name: str) -> list[Model]:
    return [model for model in document["models"] if name in ("", model["name"])]


# --- flash -------------------------------------------------------------------------------------------------------


def _bytes(layer: Layer) -> int:
    return (layer["weights"] or 0) + (layer["code"] or 0)


def _shape(layer: Layer) -> str:
    inputs = ", ".join("x".join(str(n) for n in shape) for shape in layer["inputs"])
    return f"{layer['op']} {inputs} -> {'x'.join(str(n) for n in layer['output'])}"


def _largest_layers(models: Iterable[Model], value: int) -> Iterator[str]:
    layers = sorted((layer for model in models for layer in model["layers"]), key=lambda layer: -_bytes(layer))
    for layer in layers[:_LAYERS]:
        if _bytes(layer):
            parts = [f"{kind} {layer[kind]:,}" for kind in ("weights", "code") if layer[kind]]
            share = f"{100 * _bytes(layer) / value:.0f} % of it" if value else ""
            yield f"layer {layer['name']} ({_shape(layer)}) holds {share}: {', '.join(parts)}"


def _multipliers(models: Iterable[Model]) -> Iterator[str]:
    """CMSIS-NN reads eight bytes for each output of a fully connected layer unless they share one scale."""
    for model in models:
        layers = [layer for layer in model["layers"] if _has_multipliers(layer)]
        saved = sum(8 * layer["output"][-1] for layer in layers)
        if saved:
            yield f"fully_connected='per_tensor' saves {saved:,} bytes of multipliers in {model['name']}"


def _smaller_kernels(models: Iterable[Model]) -> Iterator[str]:
    for model in models:
        if text := curve.smallest(model["curve"]):
            yield f"{text} in {model['name']}"


def _has_multipliers(layer: Layer) -> bool:
    if (layer["op"], layer["kernel"]) != ("fully_connected", "cmsis_nn") or layer["weights"] is None:
        return False
    outputs = layer["output"][-1]
    inputs = math.prod(layer["inputs"][0]) // max(1, math.prod(layer["output"]) // outputs)
    return bool(layer["weights"] >= inputs * outputs + 12 * outputs)


def _image_flash(document: Mapping[str, Any], value: int) -> Iterator[str]:
    library = sum(row["bytes"] for row in document["licences"] if row["component"] == "CMSIS-NN")
    if library >= _NOTABLE * value:
        yield f"CMSIS-NN's functions take {library:,} bytes, and backend='direct' links none of them"
    if document["flash"]["selftest"]:
        yield f"selftest=0 leaves out {document['flash']['selftest']:,} bytes of self-test"
    rest = document["flash"]["rest"]
    if rest >= value / 2:
        yield f"the rest of the firmware, without its models, holds {rest:,} bytes"


# --- RAM ---------------------------------------------------------------------------------------------------------


def _arena(model: Model) -> Iterator[str]:
    """Where the arena is fullest, and the options that leave something out of it."""
    yield from model.get("ram_notes", [])
    placed = [row for row in model["arena"] if row["offset"] is not None]
    layers = model["layers"]
    if not placed or not layers:
        return
    peak = model["peak_layer"] or 0
    full = [row for row in placed if row["first"] <= peak <= row["last"]]
    largest = sorted(full, key=lambda row: -row["bytes"])[:3]
    shown = ", ".join(f"{row['kind']} {row['name']} {row['bytes']:,}" for row in largest)
    yield (
        f"the arena of {model['name']}, {model['arena_bytes']:,} bytes, is fullest at layer {layers[peak]['name']} "
        f"({_shape(layers[peak])}): {shown}"
    )
    yield _wall(model)
    if layers[0]["op"] == "transpose" and any(row["kind"] == "input" and row["first"] == 0 for row in model["arena"]):
        copied = math.prod(layers[0]["output"])
        yield f"layer {layers[0]['name']} copies the input, {copied:,} bytes: input_layout='NHWC' takes it as it lies"
    if layers[peak]["op"] == "lookup":
        node = printable(layers[peak]["node"])
        yield f"'{node}' keeps its input and output at once, and a Relu or HardTanh there needs no buffer of its own"


def _wall(model: Model) -> str:
    """Whether a better placement could help."""
    if model["arena_optimal"]:
        return f"no placement of {model['name']}'s buffers is smaller: the kernels there, or the network, decide"
    return f"no placement of {model['name']}'s buffers is smaller than {model['arena_bound_bytes']:,} bytes"


def _image_ram(document: Mapping[str, Any], value: int) -> Iterator[str]:
    own = [model for model in document["models"] if model["ram"]["arena"]]
    if len(own) > 1:
        sizes = [model["ram"]["arena"] for model in own]
        names, saved = ", ".join(model["name"] for model in own), sum(sizes) - max(sizes)
        if saved >= _NOTABLE * value:
            yield f"arena='shared' saves {saved:,} bytes where {names} never run at once"
    yield from _stack_reserve(document["ram"]["stack_reserve"], document["models"], value)


def _stack_reserve(reserve: int | None, models: Sequence[Model], value: int) -> Iterator[str]:
    if reserve is None or reserve < _NOTABLE * value:
        return
    known = [model["stack"]["bytes"] for model in models if model["stack"] and model["stack"]["bytes"] is not None]
    needed = f", and the deepest inference needs {max(known):,}" if known else ""
    yield f"{reserve:,} bytes are kept for stack and heap{needed}"
