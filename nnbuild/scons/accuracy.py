"""The accuracy of a model: measured once beside its .int8.onnx, and held against bounds before its C is written.

What measures is the network as a program of this machine, a target of its own: other samples run it again and compile
nothing. It depends on the network and not on the firmware's core.

The bounds are an action in front of the one that writes the C, so every user of the model waits for them: objects,
libraries, and hosts that take the C files. Below a bound nothing is written, so that SCons tries again every time; and
another bound, a dependency of the C, holds the measured figures against it without measuring again.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import SCons.Builder

from nnbuild import config
from nnbuild.errors import ConfigError
from nnbuild.scons import boundary, run
from nnbuild.scons.external_data import SCANNER

_COMPILE = SCons.Builder.Builder(action=run.action("NNHOSTCOM"), name="NNHost")
_MEASURE = SCons.Builder.Builder(action=run.action("NNACCURACYCOM"), target_scanner=SCANNER, name="NNAccuracy")
_DECLARED: dict[str, tuple[list[str], Any]] = {}


def measured(
    env: Any,
    model: Any,
    quantized: Any,
    options: Mapping[str, Any],
    lowering: Sequence[str],
    own_files: Callable[[bool], str],
    samples: Sequence[Any],
) -> Any:
    """The node of `<NN_DIR>/<name>.accuracy.json`, declared once; None without validation=.

    `lowering` are the words that make the integer network that of `emit`: other integers, other file. It is made of the
    two models, the `samples` and nnbuild's `own_files`.
    """
    if "validation" not in options:
        return None
    kind = "".join(f".{word}" for word in lowering if not word.startswith("--"))
    target = quantized.dir.File(f"{options['name']}{kind}.accuracy.json")
    program = _program(env, quantized, options["name"], quantized.dir.File(f"{options['name']}{kind}.host"), lowering)
    shown = {name: options[name] for name in ("input_shape", "states") if name in options}
    words = [run.path(model), run.path(quantized), *config.arguments(shown, "quantize")]
    words += config.arguments({"validation": options["validation"]}, "accuracy")
    words += ["--name", options["name"], *lowering, "--summary", "--json", run.path(target)]
    words += ["--program", run.path(program)] if program else ["--reference"]
    made = [quantized, program] if program else [quantized]
    node = _declared(env, _MEASURE, target, [model, *made], words, "validation")
    env.Depends(node, [env.Value(own_files(True)), *samples])
    if program:
        env.Depends(program, env.Value(own_files(False)))
    return node


def _program(env: Any, quantized: Any, name: str, target: Any, lowering: Sequence[str]) -> Any:
    """The node of `<NN_DIR>/<name>.host`, None where HOSTCC is empty, or not given and there is no `cc`."""
    given = env.get("HOSTCC")
    compiler = run.words(env, "$HOSTCC") if given is not None else [config.DEFAULT_HOSTCC]
    if not compiler or (given is None and env.WhereIs(config.DEFAULT_HOSTCC) is None):
        return None
    words = ["--name", name, *lowering, "--host-cc", shlex.join(compiler)]
    node = _declared(env, _COMPILE, target, [quantized], words, "HOSTCC")
    env.NoCache(node)  # it is for this machine's processor
    return node


def _declared(env: Any, builder: Any, target: Any, sources: Sequence[Any], words: Sequence[str], what: str) -> Any:
    """The node of `target`, declared once. ConfigError where it is declared again with other `words`."""
    known = _DECLARED.get(target.get_abspath())
    if known is not None:
        if known[0] != words:
            raise ConfigError(f"declared twice with different options: {what}", run.path(sources[0]))
        return known[1]
    (node,) = builder(env, [target], sources, NN_ARGUMENTS=[run.literal(word) for word in words])
    boundary.remember_line(node)
    _DECLARED[target.get_abspath()] = (list(words), node)
    return node


def hold(env: Any, files: list[Any], report: Any, options: Mapping[str, Any]) -> None:
    """Let nobody write `files` before the figures in `report` meet the bounds in `options`."""
    if report is None:
        return
    bounds = {name: options[name] for name in config.BOUNDS.values() if name in options}
    if not bounds:
        # No reason to write the files again, but whoever builds the model gets the report.
        env.Requires(files, report)
        return
    words = ["--report", run.path(report), *config.arguments(bounds, "accuracy")]
    env.Depends(files, [report, env.Value(f"accuracy {bounds}")])
    env.AddPreAction(files, run.action("NNBOUNDCOM", lambda target, source, env: words))
