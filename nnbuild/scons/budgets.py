"""Budgets of models and images, and the size report, as last steps of what they judge.

A check is one more action of the very target: of a model's main object, which depends on the model's other objects,
and of the ELF. So whoever uses the object or the ELF, in whatever way, waits for the check; a target over budget was
never made, and SCons tries again every time; and the limits are dependencies of the target, so that a changed limit
makes it again. A stamp beside the target would have to be named by everybody who uses it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import SCons.Action
import SCons.Errors
import SCons.Node.FS
import SCons.Script
import SCons.Util

from nnbuild.config import BOUNDS
from nnbuild.errors import ConfigError, Finding
from nnbuild.option_values import parse_size
from nnbuild.report.budget import parse_limit
from nnbuild.report.terminal import style_for
from nnbuild.scons import baselines, boundary, cmsis_library, latency, linker_scripts, run
from nnbuild.scons.models import REGISTRY, Model

OVER = ".overbudget"
SIZE_ALIAS = "nn-size"
REPORT_ALIAS = "nn-report"
_FORMS = {"json": ".size.json", "text": ".size.txt", "html": ".size.html", "markdown": ".size.md"}
"""What the `size` command writes beside an image; the last two only for `scons nn-report`."""


@dataclass(slots=True)
class Image:
    """A linked ELF that is measured: what it is held against."""

    limits: dict[str, str]
    script: Any = None
    baseline: Any = None
    growth: dict[str, str] = field(default_factory=dict)


_IMAGES: dict[Any, Image] = {}
_LISTED: set[Any] = set()
_CHECKED: list[Model] = []
"""Models whose C files wait for their budget."""


def _settle(target: Sequence[Any], status: int) -> None:
    """After a failed check, leave nothing that a later build could take for good; after a good one, no old failure."""
    for node in target:
        path = node.get_abspath()
        if status and os.path.lexists(path):
            os.replace(path, path + OVER)
        elif not status and os.path.lexists(path + OVER):
            os.unlink(path + OVER)


def _append_check(node: Any, check: Any) -> None:
    """Make `check` the first action behind those that make `node`: before whatever else is done with it."""
    node.get_executor().post_actions.insert(0, check)


# --- a model -----------------------------------------------------------------------------------------------------


def _model_arguments(target: Sequence[Any], source: Sequence[Any], env: Any) -> list[str]:
    model = REGISTRY.by_object[target[0]]
    made = model.objects_with(target[0])
    objects = [str(node) for node in made if not node.name.startswith(f"{model.name}_selftest.")]
    limits = _model_limits(model, ("flash", "ram"))
    # Time is judged without the objects, which may hold no machine code yet.
    return [*(objects if limits else []), *_time_arguments(model, env), *limits]


def _time_arguments(model: Model, env: Any) -> list[str]:
    words = ["--summary", "--model-report", str(model.file(".report.json"))]
    return [*words, *latency.arguments(env, {model.name: model.options})]


def _model_limits(model: Model, kinds: Sequence[str]) -> list[str]:
    """The arguments for the budgets that a model has of its own."""
    given = [f"{model.name}.{kind}={model.options[kind]}" for kind in kinds if kind in model.options]
    return [word for limit in given for word in ("--model-budget", limit)]


_MODEL_CHECK = run.action("NNSIZECOM", _model_arguments, after=_settle)


def check_model(env: Any, model: Model, objects: Sequence[Any]) -> None:
    """Hold a model against its `flash=`, `ram=` and `latency=`; the first of its `objects` waits for the rest.

    Its `stack=` is known when it is linked, so there must be an image that is held against it.
    """
    main, *others = objects
    names = ("flash", "ram", "latency", "latency_strict")
    limits = {name: model.options[name] for name in names if name in model.options}
    if "stack" in model.options:
        env.Depends(main, env.Value(_Late(lambda: str(_judges(model))), name=f"images that judge {model.name}"))
        boundary.remember_line(main)
        _append_check(main, _STACK_CHECK)
    if not limits:
        return
    env.Depends(main, [*others, env.Value(f"budget {limits}")])
    if "latency" in limits:
        env.Depends(main, latency.dependencies(env))
    env.Clean(main, main.get_abspath() + OVER)
    boundary.remember_line(main)
    _append_check(main, _MODEL_CHECK)


def _withdraw(target: Sequence[Any], status: int) -> None:
    """Files that the host would compile are not there where the model is over its budget."""
    for node in target:
        if status and os.path.lexists(node.get_abspath()):
            os.unlink(node.get_abspath())


_SOURCES_CHECK = run.action(
    "NNSIZECOM",
    lambda target, source, env: _time_arguments(REGISTRY.by_source[target[0]], env),
    after=_withdraw,
)


def check_sources(env: Any, model: Model) -> None:
    """Hold a model whose C files the host compiles against its `latency=`, before the host gets them."""
    main = model.files[0]
    if "latency" not in model.options or model in _CHECKED:
        return
    _CHECKED.append(model)
    limits = {name: model.options[name] for name in ("latency", "latency_strict") if name in model.options}
    env.Depends(model.files, [env.Value(f"budget {limits}"), *latency.dependencies(env)])
    _append_check(main, _SOURCES_CHECK)


class _Late:
    """The value of a Value node that is known only when everything is declared."""

    def __init__(self, text: Callable[[], str]) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text()


def _judges(model: Model) -> list[str]:
    """The images with a budget that `model` is linked into."""
    for elf in _IMAGES:
        elf.children()  # finds the libraries that it names
    return [run.path(elf) for elf in _IMAGES if any(one is model for one in _models_in(elf, set()))]


def _stack_is_judged(target: Sequence[Any], source: Sequence[Any], env: Any) -> int:
    """A budget that nothing judges would look like one that holds."""
    model = REGISTRY.by_object[target[0]]
    if _judges(model):
        return 0
    hint = "call env.NNBudget on the program that links it"
    message = ConfigError("option 'stack' is judged on a linked image, and none has a budget", model.name, hint)
    raise run.failure(2, str(message), boundary.line_of(target[0]))


_STACK_CHECK = SCons.Action.Action(_stack_is_judged, strfunction=None)


# --- an image ----------------------------------------------------------------------------------------------------


def _models_in(node: Any, seen: set[Any]) -> Iterator[Model]:
    """The models whose objects, or objects of whose C files, are below `node`, also through libraries; each once."""
    found: dict[int, Model] = {}
    _collect(node, seen, found)
    return iter(found.values())


def _collect(node: Any, seen: set[Any], found: dict[int, Model]) -> None:
    if node in seen:
        return
    seen.add(node)
    model = REGISTRY.by_object.get(node) or REGISTRY.by_source.get(node)
    if model is not None:
        found[id(model)] = model
        return
    for child in [*(node.sources or []), *(node.depends or []), *(node.implicit or [])]:
        _collect(child, seen, found)


def _report_arguments(elf: Any, env: Any) -> list[str]:
    models = {str(model.file(".report.json")): model for model in _models_in(elf, set())}
    words = [str(elf), "--checked", *latency.arguments(env, {m.name: m.options for m in models.values()})]
    for report, model in sorted(models.items(), key=lambda entry: entry[0]):
        words += ["--model-report", report, *_accuracy_arguments(model)]
        words += _model_limits(model, ("flash", "ram", "stack"))
    return words


def _accuracy_arguments(model: Model) -> list[str]:
    """What was measured of a model with `validation=`, and the bounds that its C has met."""
    if model.accuracy is None:
        return []
    bounds = {kind: model.options[option] for kind, option in BOUNDS.items() if option in model.options}
    given = [word for kind, bound in bounds.items() for word in ("--model-budget", f"{model.name}.{kind}={bound!r}")]
    return ["--accuracy-report", str(model.accuracy), *given]


def _image_arguments(target: Sequence[Any], source: Sequence[Any], env: Any) -> list[str]:
    elf = target[0]
    # With nn-report the pages come with the check, since nothing comes behind one that fails.
    asked = [str(name) for name in SCons.Script.BUILD_TARGETS]
    pages = any(name == REPORT_ALIAS or name.startswith(f"{REPORT_ALIAS}-") for name in asked)
    return [*_report_arguments(elf, env), "--summary", *_files(elf, pages), *_limit_arguments(elf)]


def _files(elf: Any, pages: bool) -> list[str]:
    """The arguments for what is written beside the image."""
    base, forms = os.path.splitext(str(elf))[0], list(_FORMS) if pages else ["json", "text"]
    return [word for form in forms for word in (f"--{form}", base + _FORMS[form])]


def _limit_arguments(elf: Any) -> list[str]:
    image = _IMAGES.get(elf, Image({}))
    words = ["--linker-script", run.path(image.script)] if image.script else []
    words += [word for region, limit in image.limits.items() for word in ("--budget", f"{region}={limit}")]
    return words + baselines.arguments(elf, image.baseline, image.growth)


_KINDS = ("flash", "ram", "stack", "latency", "latency_strict", *BOUNDS.values())
"""Options of a model whose limits are in the report of its image."""


def _signature(elf: Any) -> str:
    """All that an image is held against or reports: whatever changes here, it is linked and checked again."""
    image = _IMAGES[elf]
    models = {m.name: {kind: m.options[kind] for kind in _KINDS if kind in m.options} for m in _models_in(elf, set())}
    limited = {name: limits for name, limits in sorted(models.items()) if limits}
    return f"budget {image.limits} {limited} {baselines.signature(image.baseline, image.growth)}"


_IMAGE_CHECK = run.action("NNSIZECOM", _image_arguments, after=_settle)


def _linked(env: Any, elf: Any) -> Any:
    """The node of the ELF, which something must build."""
    node = elf
    while SCons.Util.is_List(node):
        if not node:
            raise ConfigError("takes what env.Program returned", "NNBudget")
        node = node[0]
    if run.is_path(node):
        node = env.File(os.fspath(node))
    if not isinstance(node, SCons.Node.FS.Base) or isinstance(node, SCons.Node.FS.Dir):
        raise ConfigError(f"takes what env.Program returned, not {node!s}", "NNBudget")
    if not node.has_builder():
        hint = "call env.Program before env.NNBudget and pass its result"
        raise ConfigError("nothing builds this file", run.path(node), hint)
    return node


def _limit(region: str, limit: Any, where: str, script: bool) -> str:
    """A limit in its one canonical form: bytes, so that "1K" and 1024 are the same; a share of the region stays one."""
    if not script and region not in ("FLASH", "RAM"):
        hint = "without one the regions are FLASH and RAM"
        raise ConfigError(f"budget for region '{region}', which needs linker_script", where, hint)
    try:
        parse_limit(limit)
    except ConfigError as error:
        raise ConfigError(f"budget {region} {error.findings[0].message}, not {limit!r}", where) from None
    share = str(limit).strip().endswith("%")
    if share and not script:
        raise ConfigError(f"budget {region} is a share of a length that nobody knows", where, "add linker_script=")
    return str(limit).strip() if share else str(parse_size(limit))


def _limits(
    given: Mapping[str, Any], growth: Any, where: str, script: bool, baseline: Any
) -> tuple[dict[str, str], dict[str, str]]:
    """The limits of regions, and on their growth. ConfigError with all that is wrong."""
    limits: dict[str, str] = {}
    grown: dict[str, str] = {}
    findings: list[Finding] = []
    for region, limit in sorted(given.items()):
        try:
            limits[region] = _limit(region, limit, where, script)
        except ConfigError as error:
            findings += error.findings
    try:
        grown = baselines.growth(growth, baseline, where)
    except ConfigError as error:
        findings += error.findings
    if findings:
        raise ConfigError.of(findings)
    return limits, grown


def image_budget(env: Any, elf: Any, linker_script: Any = None, growth: Any = None, **given: Any) -> list[Any]:
    """`env.NNBudget(elf, FLASH=..., RAM=..., linker_script=..., growth=...)`; returns the ELF's node in a list."""
    node = _linked(env, elf)
    where = run.path(node)
    script = linker_scripts.script(env, linker_script, where)
    baseline = baselines.file(env, where)
    limits, grown = _limits(given, growth, where, script is not None, baseline)
    image = Image(limits, script, baseline, grown)
    known = _IMAGES.get(node)
    if known is not None:
        if known != image:
            raise ConfigError("has two different budgets", where, "put all limits into one env.NNBudget")
        return [node]
    latency.settle(env, where)
    _IMAGES[node] = image
    measured = [model.accuracy for model in _models_in(node, set()) if model.accuracy is not None]
    scripts = linker_scripts.dependencies(env, script) if script else []
    accepted = [baseline] if baselines.there(baseline) else []
    limit = env.Value(_Late(lambda: _signature(node)), name=f"budget of {where}")
    env.Depends(node, [limit, *measured, *scripts, *accepted, *latency.dependencies(env)])
    # From a cache of SCons the file would come without its check, and so without the report of this build.
    env.NoCache(node)
    base = os.path.splitext(node.get_abspath())[0]
    env.Clean(node, [node.get_abspath() + OVER, *(base + suffix for suffix in _FORMS.values())])
    boundary.remember_line(node)
    _append_check(node, _IMAGE_CHECK)
    list_size(env, node)
    if baseline is not None:
        baselines.accept(env, node, baseline, lambda image: os.path.splitext(str(image))[0] + _FORMS["json"])
    return [node]


# --- scons nn-size, scons nn-report --------------------------------------------------------------------------------


def list_size(env: Any, elf: Any) -> None:
    """Let `scons nn-size` print the table of `elf`, and `scons nn-report` write its pages."""
    if elf in _LISTED:
        return
    _LISTED.add(elf)

    def table(target: Sequence[Any], source: Sequence[Any], env: Any) -> list[str]:
        # The command runs without the variables of the shell, so that it would not see NO_COLOR.
        style = ["--style", style_for(sys.stdout, os.environ)]
        return [*_report_arguments(elf, env), *style, *_limit_arguments(elf)]

    def pages(target: Sequence[Any], source: Sequence[Any], env: Any) -> list[str]:
        return [*_report_arguments(elf, env), "--summary", *_files(elf, pages=True), *_limit_arguments(elf)]

    for alias, arguments in ((SIZE_ALIAS, table), (REPORT_ALIAS, pages)):
        mine = env.Alias(f"{alias}-{elf.name}", [elf], run.action("NNSIZECOM", arguments))
        boundary.remember_line(*mine)
        env.AlwaysBuild(mine)
        env.Alias(alias, mine)


@boundary.user_errors
def program_emitter(target: list[Any], source: list[Any], env: Any) -> tuple[list[Any], list[Any]]:
    """Notes every program that lists a model's objects, and links what models call behind everything else."""
    if any(node in REGISTRY.by_object or {*(node.sources or [])} & REGISTRY.by_source.keys() for node in source):
        list_size(env, target[0])
    linked = [lib for lib in SCons.Util.flatten(env.get("LIBS", [])) if isinstance(lib, SCons.Node.Node)]
    seen: set[Any] = set()
    models = [model for node in (*source, *linked) for model in _models_in(node, seen)]
    cmsis_library.last(env, [model.library for model in models if model.library])
    return target, source
