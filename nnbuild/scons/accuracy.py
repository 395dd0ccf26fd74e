"""The accuracy of a model: measured once beside its .int8.onnx, and held against bounds before its C is written.

The bounds are an action in front of the one that writes the C, so every user of the model waits for them: objects,
libraries, and hosts that take the C files. Below a bound nothing is written, so that SCons tries again every time; and
another bound, a dependency of the C, holds the measured figures against it without measuring again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import SCons.Builder

from nnbuild import config
from nnbuild.errors import ConfigError
from nnbuild.scons import boundary, run
from nnbuild.scons.external_data import SCANNER

_BOUNDS = ("min_agreement", "min_sqnr")
_MEASURE = SCons.Builder.Builder(action=run.action("NNACCURACYCOM"), target_scanner=SCANNER, name="NNAccuracy")
_MEASURED: dict[str, tuple[list[str], Any]] = {}


def measured(
    env: Any, model: Any, quantized: Any, options: Mapping[str, Any], lowering: Sequence[str], depends: Sequence[Any]
) -> Any:
    """The node of `<NN_DIR>/<name>.accuracy.json`, declared once; None without validation=.

    `lowering` are the words that make the integer network that of `emit`: other integers, other file. `depends` is what
    it is made of beside the two models.
    """
    if "validation" not in options:
        return None
    kind = "".join(f".{word}" for word in lowering if not word.startswith("--"))
    target = quantized.dir.File(f"{options['name']}{kind}.accuracy.json")
    shown = {name: options[name] for name in ("input_shape", "states") if name in options}
    words = [run.path(model), run.path(quantized), *config.arguments(shown, "quantize")]
    words += config.arguments({"validation": options["validation"]}, "accuracy")
    words += ["--name", options["name"], *lowering, "--summary", "--json", run.path(target)]
    known = _MEASURED.get(target.get_abspath())
    if known is not None:
        if known[0] != words:
            raise ConfigError("declared twice with different options: validation", run.path(model))
        return known[1]
    (node,) = _MEASURE(env, [target], [model, quantized], NN_ARGUMENTS=[run.literal(word) for word in words])
    boundary.remember_line(node)
    env.Depends(node, list(depends))
    _MEASURED[target.get_abspath()] = (words, node)
    return node


def hold(env: Any, files: list[Any], report: Any, options: Mapping[str, Any]) -> None:
    """Let nobody write `files` before the figures in `report` meet the bounds in `options`."""
    if report is None:
        return
    bounds = {name: options[name] for name in _BOUNDS if name in options}
    if not bounds:
        # No reason to write the files again, but whoever builds the model gets the report.
        env.Requires(files, report)
        return
    words = ["--report", run.path(report), *config.arguments(bounds, "accuracy")]
    env.Depends(files, [report, env.Value(f"accuracy {bounds}")])
    env.AddPreAction(files, run.action("NNBOUNDCOM", lambda target, source, env: words))
