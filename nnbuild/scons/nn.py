"""The SCons tool `nn`: a neural network is a source file.

    import nnbuild.scons                                    # after pip install; not needed with site_scons
    env = Environment(tools=["default", "nn"], toolpath=[PyPackageDir("nnbuild.scons")])

    kws = env.NNModel("models/kws.onnx", calibration="models/kws_calib.npz", flash="64K", ram="16K")
    fw = env.Program("fw.elf", ["main.c", kws])
    env.NNBudget(fw, FLASH="240K", RAM="15K")

Set CC, CFLAGS and CCFLAGS first: the core that C is written for is the core of this compiler with these flags.
With nnbuild as a git submodule no toolpath is needed: put a link to its `site_scons` beside your SConstruct, or run
`scons --site-dir=third_party/nnbuild/site_scons`, or write `toolpath=["third_party/nnbuild/nnbuild/scons"]`.

NNModel(model, **options)
    Quantizes `model` to int8, writes C, compiles it, and returns the object nodes, for Program and Library. The
    folder of the generated header is added to CPPPATH: `#include "kws.h"`. The options are in docs/SCONS.md and in
    nnbuild/config.py. `sources=True` returns the .c and .S nodes instead.

    Options may stand in a file beside the model, `models/kws.toml`, with paths relative to that file; the call wins.
    Then an .onnx can be listed as it is, and is the same as NNModel of it:

        env.Program("fw.elf", ["main.c", "models/kws.onnx"])

    With validation="models/kws_val.npz" the integers are compared with the float model on these samples, by the C
    compiled with HOSTCC for this machine; below min_agreement="97%" or min_sqnr=25 (dB), or with top-1 lower by more
    than max_drop="1%", the firmware's C is not written and the build fails.

    Two commands run for a model. The first depends on the model, its external data, the calibration data and
    nnbuild's Python files, the second on what the first wrote, on the compiler's flags and on all of nnbuild's files.
    SCons compares contents, so a touched model rebuilds nothing, and calibration data that lead to the same numbers
    stop behind the first command. The same model for two cores is quantized once.

NNBudget(elf, FLASH="240K", RAM="15K", linker_script="stm32.ld", growth="+1K")
    Checks the image right after it is linked. Without a linker script FLASH is what is loaded and RAM what is
    writable; with one, the names are the regions of its MEMORY block, a limit may be a share ("85%"), and every
    region must hold what is in it, its stack reserve included. Over budget fails the build: no .bin or .hex is made
    from the ELF, which is called fw.elf.overbudget then. Writes fw.size.json and fw.size.txt in any case.

    flash= and ram= of a model are checked when its objects exist, before anything links them. What the linker leaves
    out of the image (unused functions) counts there, the self-test does not. stack= is checked on the image, and
    growth= is what each region may gain since the build that NN_BASELINE="size-baseline.json" keeps.

scons nn-size     prints the size table of every image with a model
scons nn-report   writes fw.size.html and fw.size.md beside every image with a model
scons nn-baseline accepts the build: writes NN_BASELINE
scons nn-freeze   writes the int8 file of every model with frozen=, and its lock

Variables: NN_DIR, NN_VARIANT, NN_CPU, NN_KERNEL_CCFLAGS, NNPYTHON, NNQUANTCOM, NNQUANTCOMSTR and so on; docs/SCONS.md
says what each does. `scons VERBOSE=1` prints whole commands.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import SCons.Builder
import SCons.Script
import SCons.Tool

if "nnbuild" not in sys.modules:
    # With toolpath= into a checkout, nobody has told Python where the package is.
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))))

from nnbuild import __version__, config
from nnbuild.errors import ConfigError
from nnbuild.scons import aliases, budgets, cmsis_library, models, requirement, run, variables
from nnbuild.scons.boundary import user_errors

_COMMAND = "$( $NNPYTHON -m nnbuild $)"
_COMMANDS = {
    "NNQUANTCOM": f"{_COMMAND} quantize $SOURCE $NN_ARGUMENTS -o $TARGET",
    "NNEMITCOM": f"{_COMMAND} emit $SOURCE $NN_ARGUMENTS",
    "NNHOSTCOM": f"{_COMMAND} host $SOURCE $NN_ARGUMENTS -o $TARGET",
    "NNACCURACYCOM": f"{_COMMAND} accuracy $NN_ARGUMENTS",
    "NNBOUNDCOM": f"{_COMMAND} accuracy $NN_ARGUMENTS",
    "NNBASELINECOM": f"{_COMMAND} baseline $NN_ARGUMENTS",
    "NNSIZECOM": f"{_COMMAND} size $NN_ARGUMENTS",
    "NNFREEZECOM": f"{_COMMAND} freeze $SOURCE $NN_ARGUMENTS",
}
_MESSAGES = {variable.name: variable.default for variable in config.VARIABLES if variable.name.endswith("STR")}
_SETTINGS = {variable.name: variable.default for variable in config.VARIABLES if variable.name.startswith("NN_")}
_LISTS = ("NN_LIBS", "NN_KERNEL_CCFLAGS", "NN_SECTION_CCFLAGS")


def _objects(env: Any, model: models.Model, shared: bool = False) -> list[Any]:
    """The model's objects, compiled once; `shared` for those of a shared library."""
    made = model.shared_objects if shared else model.objects
    if not made:
        compile_object = env.SharedObject if shared else env.StaticObject
        # CCFLAGS may be one string of several words, which must not become one word.
        flags = [*SCons.Util.CLVar(env.get("CCFLAGS", "")), "$NN_KERNEL_CCFLAGS", "$NN_SECTION_CCFLAGS"]
        # The preprocessor for assembly needs the core's flags, which are with the C compiler's.
        assembly = ["$ASPPFLAGS", "$CFLAGS", "$CCFLAGS"]
        include = {"CPPPATH": [env.get("CPPPATH", []), model.include]} if model.include else {}
        for source in model.sources:
            if source.name.endswith(".c"):
                made.extend(compile_object(source, CCFLAGS=flags, **include))
            elif "ASPPCOM" in env:
                made.extend(compile_object(source, ASPPFLAGS=assembly))
        models.REGISTRY.by_object.update(dict.fromkeys(made, model))
        budgets.check_model(env, model, made)
    return list(made)


def _declare(env: Any, model: Any, options: dict[str, Any]) -> models.Model:
    """The model, its header and its library known to `env`."""
    requirement.check(env, __version__)
    declared = models.declare(env, model, options)
    models.add_header(env, declared)
    if declared.library:
        cmsis_library.add(env, declared.library)
    return declared


@user_errors
def NNModel(env: Any, model: Any, **options: Any) -> list[Any]:  # noqa: N802
    """The objects of a model, or its C files with sources=True. See the tool's docstring."""
    declared = _declare(env, model, options)
    if not options.get("sources"):
        return _objects(env, declared)
    if declared.include:
        env.AppendUnique(CPPPATH=[declared.include])
    budgets.check_sources(env, declared)
    return declared.sources


@user_errors
def NNBudget(env: Any, elf: Any, **limits: Any) -> list[Any]:  # noqa: N802
    """Hold an image against limits. See the tool's docstring."""
    requirement.check(env, __version__)
    variables.check(env, "NNBudget")
    return budgets.image_budget(env, elf, **limits)


class ModelSource:
    """What turns an .onnx in the sources of a Program or Library into objects: a source builder of those.

    A CFile builder would give C files to the Object builder, which compiles them with the environment's own flags:
    then a model listed by name would not be the model of NNModel.
    """

    def __init__(self, shared: bool) -> None:
        self._shared = shared

    def src_suffixes(self, env: Any) -> list[str]:
        """The suffixes that this builder takes."""
        return [".onnx"]

    @user_errors
    def _execute(self, env: Any, target: Any, source: Any, overwarn: Any = None, executor_kw: Any = None) -> list[Any]:
        return [node for model in source for node in _objects(env, _declare(env, model, {}), self._shared)]


@user_errors
def _refuse_object(target: Any, source: Any, env: Any) -> Any:
    hint = "list it in Program or StaticLibrary, or call env.NNModel"
    raise ConfigError("an .onnx becomes several objects, not one", run.path(source[0]), hint)


# What takes an .onnx among its sources, and whether that needs objects of a shared library.
_BUILDERS = {
    SCons.Tool.createProgBuilder: False,
    SCons.Tool.createStaticLibBuilder: False,
    SCons.Tool.createSharedLibBuilder: True,
    SCons.Tool.createLoadableModuleBuilder: True,
}


@user_errors
def generate(env: Any) -> None:
    """Add the methods, builders and variables of the tool to `env`."""
    requirement.check(env, __version__)
    verbose = SCons.Script.ARGUMENTS.get("VERBOSE", "0") not in ("", "0")
    env.SetDefault(
        **{name: SCons.Util.CLVar(text) if name in _LISTS else text for name, text in _SETTINGS.items()},
        NNPYTHON=[run.literal(sys.executable)],
        **_COMMANDS,
        **{name: "" if verbose else text for name, text in _MESSAGES.items()},
    )
    aliases.explain(env)
    env.AddMethod(NNModel, "NNModel")
    env.AddMethod(NNBudget, "NNBudget")
    for builder in SCons.Tool.createObjBuilders(env):
        builder.add_emitter(".onnx", _refuse_object)
    for create, shared in _BUILDERS.items():
        builder = create(env)
        if not any(isinstance(known, ModelSource) for known in builder.src_builder):
            builder.add_src_builder(ModelSource(shared))
    if budgets.program_emitter not in SCons.Util.flatten(env.get("PROGEMITTER", [])):
        env.Append(PROGEMITTER=[budgets.program_emitter])


def exists(env: Any) -> bool:
    """Whether the tool can be used: it needs no program to be found."""
    return True
