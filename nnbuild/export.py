"""Models as a folder of C for builds that have neither SCons nor Python: CMake, Keil, IAR, make.

The folder holds what `emit` writes, the lists that a build system needs, and instructions. It holds no path and no
date: equal models and options give equal folders. CMSIS-NN is named, never copied: it is the firmware's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from nnbuild import __version__, cmsis_nn
from nnbuild.emit import SPDX, EmitOptions, emit
from nnbuild.errors import ConfigError, Finding
from nnbuild.network import Network

MANIFEST = "export.json"
SHARED_ARENA = "nn_shared_arena.c"
_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Exported:
    """One model: its integer network, what its C is generated for, and the file that messages name."""

    network: Network
    options: EmitOptions
    where: str


@dataclass(frozen=True, slots=True)
class _Rendered:
    """One model as files, and what the lists and instructions say of it."""

    files: Mapping[str, str]
    report: Mapping[str, Any]
    target: str
    sources: tuple[str, ...]
    libraries: tuple[str, ...]

    @property
    def facts(self) -> dict[str, Any]:
        """The values that the templates print."""
        layers = self.report["layers"]
        return {
            **{key: self.report[key] for key in ("name", "model_id", "cpu", "arena", "arena_bytes")},
            "weights": sum(layer["weights_bytes"] for layer in layers),
            "kernels": sorted({layer["kernel"] for layer in layers}) or ["none"],
            "selftest": f"{self.report['name']}_selftest.c" in self.files,
            "target": self.target,
            "sources": self.sources,
            "libraries": self.libraries,
        }


def export(models: Sequence[Exported], library: Path | None = None) -> dict[str, str]:
    """File name -> text of the whole folder. `library` is the CMSIS-NN that the targets of the models name.

    ConfigError where two models have one name; otherwise as `emit`.
    """
    _refuse_equal_names(models)
    rendered = [_rendered(model) for model in models]
    files = _together(models, rendered)
    arena = max((m.report["arena_bytes"] for m in rendered if m.report["arena"] == "shared"), default=0)
    if arena:
        files[SHARED_ARENA] = _shared_arena(models, arena)
    calls = sorted(set(re.findall(r"\barm_\w+(?=\()", "\n".join(files.values()))))
    if calls and library is not None:
        found = [path.relative_to(library).as_posix() for path in cmsis_nn.sources(library, calls)]
        files["cmsis_nn_sources.txt"] = _lines(found)
    files["sources.txt"] = _lines(sorted(name for name in files if name.endswith((".c", ".S"))))
    context = {
        "version": __version__,
        "spdx": SPDX,
        "models": [model.facts for model in rendered],
        "assembly": any(name.endswith(".S") for name in files),
        "cmsis_nn": next((m.options.target.cmsis_nn.version for m in models if m.options.target.cmsis_nn), "")
        if calls
        else "",
        "single_rounding": any(model.network.single_rounding for model in models),
        "shared_arena": arena,
    }
    for name in ("README.txt", "CMakeLists.txt"):
        files[name] = _render(name, context)
    files[MANIFEST] = _manifest(files, rendered)
    return files


def _refuse_equal_names(models: Sequence[Exported]) -> None:
    findings = []
    first: dict[str, Exported] = {}
    for model in models:
        known = first.setdefault(model.options.name.lower(), model)
        if known is not model:
            hint = "--name with one model a call, or name = '...' in the .toml beside a model"
            findings.append(Finding(f"'{model.options.name}' is also the name of {known.where}", model.where, hint))
    if findings:
        raise ConfigError.of(findings)


def _together(models: Sequence[Exported], rendered: Sequence[_Rendered]) -> dict[str, str]:
    """The files of all models; `kws` and `kws_weights` would both write a `kws_weights.c`."""
    files: dict[str, str] = {}
    for model, made in zip(models, rendered, strict=True):
        twice = sorted(files.keys() & made.files.keys())
        if twice:
            hint = "give one of the two models another name"
            raise ConfigError(f"{', '.join(twice)} would be written by another model too", model.where, hint)
        files |= made.files
    return files


def _rendered(model: Exported) -> _Rendered:
    name = model.options.name
    files = emit(model.network, model.options)
    report = json.loads(files[f"{name}.report.json"])
    shared = report["arena"] == "shared" and report["arena_bytes"]
    assembly = files.pop(f"{name}_kernels.S")
    if shared:
        assembly = re.sub(r"\n/\* The arena of all models.*?#endif\n", "", assembly, flags=re.DOTALL)
    if not _is_empty(assembly):
        files[f"{name}_kernels.S"] = assembly
    sources = tuple(file for file in files if file.endswith((".c", ".S")))
    calls = any(layer["kernel"] == "cmsis_nn" for layer in report["layers"])
    libraries = [library for library, used in (("nnbuild_cmsis_nn", calls), ("nnbuild_shared_arena", shared)) if used]
    return _Rendered(files, report, f"nn_{name}", sources, tuple(libraries))


def _is_empty(assembly: str) -> bool:
    """Whether an assembly file holds nothing but remarks and the mark of a stack that is not executable."""
    code = re.sub(r"/\*.*?\*/|#if defined\(__linux__\).*?#endif", "", assembly, flags=re.DOTALL)
    return not code.strip()


def _shared_arena(models: Sequence[Exported], size: int) -> str:
    """The arena in C: whoever exports knows all models, so that no common symbol of the linker is needed."""
    align = max(model.options.placement.arena_align for model in models if model.options.arena == "shared")
    return _render(SHARED_ARENA, {"version": __version__, "spdx": SPDX, "words": (size + 3) // 4, "align": align})


def _lines(names: Iterable[str]) -> str:
    return "".join(f"{name}\n" for name in names)


def _manifest(files: Iterable[str], rendered: Sequence[_Rendered]) -> str:
    document = {
        "schema": _SCHEMA,
        "nnbuild": __version__,
        "files": sorted([*files, MANIFEST]),
        "models": [{key: m.report[key] for key in ("name", "model_id", "cpu", "arena_bytes")} for m in rendered],
    }
    return json.dumps(document, indent=1) + "\n"


def _render(name: str, context: Mapping[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(resources.files("nnbuild") / "templates")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    return environment.get_template(f"export_{name}.j2").render(context)


# The folder.


def stale_files(folder: Path, files: Iterable[str]) -> list[str]:
    """What an earlier export has left in `folder` that is not among `files`.

    ConfigError where the folder holds files and no export.json of ours: they may be somebody's sources.
    """
    if not folder.exists():
        return []
    if not folder.is_dir():
        raise ConfigError("is not a folder", str(folder))
    manifest = folder / MANIFEST
    if not manifest.exists():
        if any(folder.iterdir()):
            hint = "name a new or empty folder: what is no longer exported will be removed from it"
            raise ConfigError("holds files that are not an export", str(folder), hint)
        return []
    try:
        document = json.loads(manifest.read_text(encoding="utf-8"))
        names = document["files"]
        good = document["schema"] == _SCHEMA and all(re.fullmatch(r"\w[\w.]*", name) for name in names)
    except (OSError, ValueError, KeyError, TypeError):
        good = False
    if not good:
        raise ConfigError("is not the list of an export", str(manifest), "remove the folder")
    return sorted(set(names) - set(files))
