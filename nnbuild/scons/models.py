"""What a SConstruct has declared about models: the two commands and the objects of each, shared by all who name it.

The registry is an object of this module, because `Clone` copies construction variables and would copy it too.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import SCons.Builder
import SCons.Errors
import SCons.Node.FS
import SCons.Util

from nnbuild import config
from nnbuild.cmsis_nn import HEADER
from nnbuild.errors import ConfigError, Finding
from nnbuild.scons import accuracy, boundary, cmsis_library, latency, run, variables
from nnbuild.scons.external_data import SCANNER

SAMPLES = (".npz", ".npy")
SAMPLE_OPTIONS = ("calibration", "validation")
FUNCTION = re.compile(r"(.+\.py):(\w+)")
"""`calib.py:samples`, a function in a file."""
FREEZE_ALIAS = "nn-freeze"


@dataclass(slots=True)
class Quantized:
    """One `<NN_DIR>/m.int8.onnx`, shared by all cores."""

    model: Any
    options: dict[str, Any]
    node: Any


@dataclass(slots=True)
class Model:
    """One model for one core: what `emit` writes, and the objects of it.

    `cmsis_nn` is the folder of the CMSIS-NN that it may call, `library` what is linked for that, and `accuracy` the
    report of `validation=`; None for none.
    """

    name: str
    source: Any
    options: dict[str, Any]
    compiler: list[str]
    folder: Any
    files: list[Any]
    cmsis_nn: Any = None
    library: Any = None
    accuracy: Any = None
    objects: list[Any] = field(default_factory=list)
    shared_objects: list[Any] = field(default_factory=list)

    def objects_with(self, node: Any) -> list[Any]:
        """All objects of the kind that `node` is one of: for programs and archives, or for shared libraries."""
        return self.shared_objects if node in self.shared_objects else self.objects

    def file(self, suffix: str) -> Any:
        """The generated file `<name><suffix>`."""
        return next(node for node in self.files if node.name == self.name + suffix)

    @property
    def include(self) -> Any:
        """The folder of CMSIS-NN's headers where the model is compiled with them and the firmware has none."""
        return self.cmsis_nn.Dir("Include") if self.library else None

    @property
    def sources(self) -> list[Any]:
        """What is to be compiled: the `.c` and `.S` files."""
        return [node for node in self.files if node.name.endswith((".c", ".S"))]


@dataclass(slots=True)
class Registry:
    """All that has been declared in this run of scons."""

    quantized: dict[str, Quantized] = field(default_factory=dict)
    models: dict[tuple[str, str], Model] = field(default_factory=dict)
    by_object: dict[Any, Model] = field(default_factory=dict)
    by_source: dict[Any, Model] = field(default_factory=dict)


REGISTRY = Registry()


def own_files(python_only: bool) -> str:
    """A name for the contents of nnbuild's own files: generated files depend on it."""
    if not _OWN_FILES:
        digests = {True: hashlib.sha256(), False: hashlib.sha256()}
        for folder, folders, names in os.walk(run.PACKAGE):
            folders[:] = sorted(name for name in folders if name != "__pycache__")
            for name in sorted(names):
                if name.endswith((".py", ".j2", ".h", ".c", ".S")):
                    path = os.path.join(folder, name)
                    data = Path(path).read_bytes()
                    relative = os.path.relpath(path, run.PACKAGE).replace(os.sep, "/")
                    for python, digest in digests.items():
                        if name.endswith(".py") or not python:
                            digest.update(f"{relative}\0{len(data)}\0".encode() + data)
        _OWN_FILES.update({key: f"nnbuild's own files {made.hexdigest()[:16]}" for key, made in digests.items()})
    return _OWN_FILES[python_only]


_OWN_FILES: dict[bool, str] = {}


_QUANTIZE = SCons.Builder.Builder(
    action=run.action("NNQUANTCOM"),
    target_scanner=SCANNER,
    name="NNQuantize",
)
_EMIT = SCons.Builder.Builder(action=run.action("NNEMITCOM"), name="NNEmit")


def _single(env: Any, model: Any) -> Any:
    """The node of `model`: a name, a node, or a list of one of them."""
    while SCons.Util.is_List(model):
        if len(model) != 1:
            raise ConfigError(f"takes one model, not {len(model)}", "NNModel")
        model = model[0]
    if isinstance(model, SCons.Node.FS.Base):
        return model
    if not model or not run.is_path(model):
        raise ConfigError(f"takes the name of an .onnx file, not {model!r}", "NNModel")
    return _file(env, os.fspath(model))


def _file(factory: Any, text: str) -> Any:
    """The file node of `text`. ConfigError where that is a folder."""
    node = factory.Entry(text)
    if isinstance(node, SCons.Node.FS.Dir) or os.path.isdir(node.srcnode().get_abspath()):
        raise ConfigError("is a folder, not a file", run.path(node))
    return factory.File(text)


def _node(value: Any, base: Any, env: Any) -> Any:
    """The node of a path: relative to the SConscript, or to folder `base` where the path is from a sidecar."""
    while SCons.Util.is_List(value) and len(value) == 1:
        value = value[0]
    if isinstance(value, SCons.Node.FS.Base):
        return value
    if not run.is_path(value):
        raise ConfigError("must be one path")
    # A call's path may hold construction variables, as everywhere in a SConscript; a sidecar's is taken as it stands.
    text, factory = os.fspath(value), env if base is None else base
    folder = os.path.isdir(factory.Entry(text).srcnode().get_abspath())
    return factory.Dir(text) if folder else factory.File(text)


def _resolve(option: str, value: Any, base: Any, env: Any) -> tuple[str, list[Any]]:
    """A path option as the command's argument, and the nodes that it depends on."""
    if option == "calibration" and value == config.SYNTHETIC:
        return config.SYNTHETIC, []
    match = FUNCTION.fullmatch(value) if option in SAMPLE_OPTIONS and SCons.Util.is_String(value) else None
    if match:
        node = _node(match[1], base, env)
        return f"{run.path(node)}:{match[2]}", [node]
    node = _node(value, base, env)
    folder = node.srcnode()
    if option in SAMPLE_OPTIONS and os.path.isdir(folder.get_abspath()):
        names = sorted(name for name in os.listdir(folder.get_abspath()) if name.endswith(SAMPLES))
        return run.path(folder), [node.File(name) for name in names]
    if option == "frozen":
        return run.path(node), [node, node.dir.File(re.sub(r"\.onnx$", "", node.name) + ".lock")]
    return run.path(node), [node]


def _paths(given: dict[str, Any], base: Any, env: Any, where: str) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """`given` with the path options replaced by arguments, and what each depends on."""
    options, nodes = dict(given), {}
    for name, option in config.OPTIONS.items():
        if option.path and options.get(name) is not None:
            try:
                options[name], nodes[name] = _resolve(name, option.parse(options[name]), base, env)
            except ConfigError as error:
                raise ConfigError(f"option '{name}' {error.findings[0].message}, not {given[name]!r}", where) from None
    return options, nodes


def _options(env: Any, node: Any, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The options of a model, from the sidecar and the call (which wins), and the files that they name."""
    where = run.path(node)
    side = re.sub(r"(\.int8)?\.onnx$", "", node.name) + ".toml"
    sidecar = node.dir.File(side).srcnode()
    there = run.path(sidecar)
    read = config.read_sidecar(Path(sidecar.get_abspath()), there)
    from_sidecar, nodes = _paths(read, node.dir, env, there)
    config.parse_options(from_sidecar, there)
    from_call, called = _paths({name: value for name, value in given.items() if value is not None}, None, env, where)
    return config.parse_options({**from_sidecar, **from_call}, where), {**nodes, **called}


def _different(one: Mapping[str, Any], two: Mapping[str, Any], ignore: Sequence[str] = ()) -> str:
    """The names of the options in which two declarations differ, "" where they agree."""
    names = [name for name in config.OPTIONS if name not in ignore and one.get(name) != two.get(name)]
    return ", ".join(names)


def _quantize(env: Any, node: Any, folder: Any, options: dict[str, Any], nodes: Mapping[str, list[Any]]) -> Any:
    """The node of `<NN_DIR>/<name>.int8.onnx`, declared once."""
    target = folder.File(f"{options['name']}.int8.onnx")
    # Macros are in capitals, and some file systems do not tell kws.c from KWS.c.
    key = os.path.join(folder.get_abspath(), target.name.lower())
    mine = config.quantizing(options)
    if target is node:
        hint = "keep it outside of NN_DIR, or give it a name="
        raise ConfigError("lies where nnbuild writes its int8 model", run.path(node), hint)
    known = REGISTRY.quantized.get(key)
    if known is not None:
        if known.model is not node.srcnode():
            raise ConfigError(
                f"{run.path(known.model)} has the same base name",
                run.path(node),
                "give one of the two another: name='...'",
            )
        differing = _different(known.options, mine)
        if differing:
            raise ConfigError(f"declared twice with different options: {differing}", run.path(node))
        return known.node
    overrides = {"NN_ARGUMENTS": [run.literal(word) for word in config.arguments(mine, "quantize")]}
    (target,) = _QUANTIZE(env, [target], [node], **overrides)
    boundary.remember_line(target)
    env.Depends(target, env.Value(own_files(python_only=True)))
    for files in (files for name, files in nodes.items() if name in mine):
        # With frozen=, what is missing is for the command to report or to do without: it knows the lock.
        env.Depends(target, [file for file in files if "frozen" not in mine or _there(file)])
    if "frozen" in mine:
        _freeze(env, node, mine, nodes)
    REGISTRY.quantized[key] = Quantized(node.srcnode(), mine, target)
    if mine.get("calibration") == config.SYNTHETIC:
        print(Finding(config.MADE_UP, run.path(node), "calibration='kws_calib.npz'"), file=sys.stderr)
    return target


def _freeze(env: Any, node: Any, options: dict[str, Any], nodes: Mapping[str, list[Any]]) -> None:
    """Let `scons nn-freeze` write the committed file: a source of the build, so no target."""
    recipe = {name: value for name, value in options.items() if name != "frozen"}
    words = [*config.arguments(recipe, "quantize"), "-o", options["frozen"]]
    action = run.action("NNFREEZECOM", lambda target, source, env: words)
    mine = env.Alias(f"{FREEZE_ALIAS}-{options['frozen']}", [node, *nodes.get("calibration", [])], action)
    boundary.remember_line(*mine)
    env.AlwaysBuild(mine)
    env.Alias(FREEZE_ALIAS, mine)


def _there(node: Any) -> bool:
    return node.is_derived() or os.path.exists(node.srcnode().get_abspath())


def _rounding(env: Any) -> list[str]:
    """A firmware whose CMSIS-NN rounds once says so by a macro."""
    flags = run.words(env, "$CFLAGS $CCFLAGS $_CPPDEFFLAGS")
    defined = any(re.fullmatch(r"-DCMSIS_NN_USE_SINGLE_ROUNDING(=.*)?", flag) for flag in flags)
    return ["--rounding", "single"] if defined else []


def _compiler(env: Any, options: Mapping[str, Any], cmsis_nn: Any) -> list[str]:
    """What tells `emit` its core, by name or by the compiler to ask, and what it may call there."""
    library = ["--cmsis-nn", run.path(cmsis_nn)] if cmsis_nn else []
    if cmsis_nn and "rounding" not in options:
        library += _rounding(env)
    cpu = env.subst("$NN_CPU")
    core = ["--cpu", cpu] if cpu else ["--compiler", shlex.join(run.words(env, "$CC $CFLAGS $CCFLAGS"))]
    assembly = [] if env.subst("$NN_ASSEMBLY") == "True" else ["--no-assembly"]
    return [*core, *assembly, *library]


def _hash(parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def _emitted(
    env: Any, quantized: Any, options: dict[str, Any], target: list[str], folder: Any, cmsis_nn: Any
) -> list[Any]:
    """The nodes that `emit` writes: a fixed set, because nobody has opened the model yet."""
    name = options["name"]
    suffixes = [".c", ".h", "_weights.c", "_kernels.S", ".report.json"]
    if options.get("selftest"):
        suffixes.append("_selftest.c")
    files = [folder.File(name + suffix) for suffix in suffixes]
    mine = {key: value for key, value in options.items() if key != "name"}
    words = ["--name", name, "--output-dir", run.path(folder), *latency.chip(env), *target]
    words += config.arguments(mine, "emit")
    nodes = list(_EMIT(env, files, [quantized], NN_ARGUMENTS=[run.literal(word) for word in words]))
    boundary.remember_line(nodes[0])
    env.Depends(nodes, env.Value(own_files(python_only=False)))
    if cmsis_nn:
        env.Depends(nodes, cmsis_nn.File(str(HEADER)))
    return nodes


def _accuracy(
    env: Any, node: Any, quantized: Any, options: dict[str, Any], target: list[str], files: Sequence[Any]
) -> Any:
    """The node of the report on accuracy, or None. The integers are those of `emit`, so its words are the same."""
    mine: dict[str, Any] = {name: options[name] for name in ("input_layout", "rounding") if name in options}
    rounding = ["--rounding", "single"] if target[-2:] == ["--rounding", "single"] else []
    words = [*config.arguments(mine, "emit"), *rounding]
    return accuracy.measured(env, node, quantized, options, words, own_files, files)


def declare(env: Any, model: Any, given: Mapping[str, Any]) -> Model:
    """The model of `env.NNModel(model, **given)`; the same object for the same declaration. NNBuildError."""
    node = _single(env, model)
    where = run.path(node)
    variables.check(env, where)
    if not node.name.endswith(".onnx"):
        raise ConfigError("is no .onnx file", where)
    latency.settle(env, where)
    options, nodes = _options(env, node, given)
    options.setdefault("name", config.default_name(node.name))
    cmsis_nn = cmsis_library.folder(env, options, where)
    folder = env.Dir("$NN_DIR")
    quantized = _quantize(env, node, folder, options, nodes)
    target = _compiler(env, options, cmsis_nn)
    flags = [*target, *run.words(env, "$NN_KERNEL_CCFLAGS $NN_SECTION_CCFLAGS")]
    variant = env.subst("$NN_VARIANT")
    key = (quantized.get_abspath(), variant or _hash((target, flags)))
    known = REGISTRY.models.get(key)
    if known is not None:
        differing = _different(known.options, options, ignore=("sources",))
        if differing:
            hint = "a Clone with its own NN_VARIANT may differ"
            raise ConfigError(f"declared twice with different options: {differing}", where, hint)
        if known.compiler != flags:
            raise ConfigError(f"NN_VARIANT '{variant}' is used with different compilers or flags", where)
        return known
    shared = {name: value for name, value in options.items() if config.OPTIONS[name].stage == "emit"}
    place = folder.Dir(variant or _hash((target, flags, shared)))
    files = _emitted(env, quantized, options, target, place, cmsis_nn)
    declared = Model(options["name"], node.srcnode(), options, flags, place, files, cmsis_nn)
    declared.accuracy = _accuracy(env, node, quantized, options, target, nodes.get("validation", []))
    accuracy.hold(env, files, declared.accuracy, options)
    if cmsis_nn and options.get("cmsis_nn_sources", True):
        declared.library = cmsis_library.library(env, cmsis_nn)
    REGISTRY.models[key] = declared
    REGISTRY.by_source.update(dict.fromkeys(declared.sources, declared))
    return declared


def add_header(env: Any, model: Model) -> None:
    """Let what `env` compiles include `<name>.h`: that of this core, also where `env` is a Clone of another core's."""
    others = {other.folder: other for other in REGISTRY.models.values() if other.name.lower() == model.name.lower()}
    kept = []
    path = env.get("CPPPATH", [])
    for folder in path.split(os.pathsep) if SCons.Util.is_String(path) else SCons.Util.flatten(path):
        other = others.get(folder) if isinstance(folder, SCons.Node.Node) else None
        if other is not None and other.source is not model.source:
            hint = f"{model.name}.h could be either: give one of the models another name='...'"
            raise ConfigError(
                f"{run.path(other.source)} has the same name in this environment", run.path(model.source), hint
            )
        if other is None:
            kept.append(folder)
    env.Replace(CPPPATH=[*kept, model.folder])
