"""The core that C is generated for: asked of the compiler, never parsed out of flags."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, replace

from nnbuild.cmsis_nn import CmsisNN
from nnbuild.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Target:
    """What kernels may rely on.

    `guard` is the preprocessor condition that must hold where the generated file is compiled: the core that it was
    made for ("" for portable C). `cmsis_nn` is what CMSIS-NN offers where the firmware has it, else None. `assembly` is
    whether kernels may be in assembly, beside which the same stands in C for compilers that are not GNU's.
    """

    cpu: str
    armv6m: bool = False
    dsp: bool = False
    mve: bool = False
    guard: str = ""
    cmsis_nn: CmsisNN | None = None
    assembly: bool = True


_V6M = "defined(__ARM_ARCH_6M__) || defined(__ARM_ARCH_8M_BASE__)"
_V7M = "defined(__ARM_ARCH_7M__)"
_DSP = "defined(__ARM_FEATURE_DSP)"
_MVE = "defined(__ARM_FEATURE_MVE)"

TARGETS: dict[str, Target] = {
    "generic": Target("generic"),
    "cortex-m0": Target("cortex-m0", armv6m=True, guard=_V6M),
    "cortex-m0plus": Target("cortex-m0plus", armv6m=True, guard=_V6M),
    "cortex-m23": Target("cortex-m23", armv6m=True, guard=_V6M),
    "cortex-m3": Target("cortex-m3", guard=_V7M),
    "cortex-m4": Target("cortex-m4", dsp=True, guard=_DSP),
    "cortex-m7": Target("cortex-m7", dsp=True, guard=_DSP),
    "cortex-m33": Target("cortex-m33", dsp=True, guard=_DSP),
    "cortex-m55": Target("cortex-m55", dsp=True, mve=True, guard=_MVE),
    "cortex-m85": Target("cortex-m85", dsp=True, mve=True, guard=_MVE),
}


def named(cpu: str) -> Target:
    """The target of that name; ConfigError lists the names."""
    if cpu not in TARGETS:
        raise ConfigError(f"unknown cpu '{cpu}'", hint=f"one of {', '.join(TARGETS)}")
    return TARGETS[cpu]


def of_macros(macros: dict[str, str]) -> Target:
    """The target that predefined macros (ACLE, section 5.4) describe; `generic` for anything but a Cortex-M."""
    if macros.get("__ARM_ARCH_PROFILE") not in ("77", "'M'"):
        # gcc predefines the profile as a character's code; clang as a character constant.
        return TARGETS["generic"]
    if "__ARM_FEATURE_MVE" in macros:
        return TARGETS["cortex-m55"]
    if "__ARM_ARCH_6M__" in macros:
        return TARGETS["cortex-m0"]
    if "__ARM_ARCH_8M_BASE__" in macros:
        return TARGETS["cortex-m23"]
    if "__ARM_FEATURE_DSP" in macros:
        return TARGETS["cortex-m33" if "__ARM_ARCH_8M_MAIN__" in macros else "cortex-m4"]
    return TARGETS["cortex-m3"] if "__ARM_ARCH_7M__" in macros else TARGETS["generic"]


def of_compiler(command: list[str]) -> Target:
    """Ask the compiler (`$CC $CFLAGS $CCFLAGS` as a list): `-dM -E` on an empty file.

    Cores of one instruction set, such as M4 and M7, look alike to it: there `-mcpu=` says which, where it is given.
    ConfigError where there is no such compiler, or where it does not answer and the cpu must be named.
    """
    try:
        done = subprocess.run(
            [*command, "-dM", "-E", "-x", "c", "-"], input="", capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = error.strerror if isinstance(error, OSError) else "no answer in 60 s"
        hint = "install it, put it on PATH, or set CC"
        raise ConfigError(f"cannot run the compiler '{command[0]}': {reason}", hint=hint) from None
    macros = dict(re.findall(r"^#define (\w+) (.*)$", done.stdout, re.MULTILINE))
    if done.returncode != 0 or not macros:
        first = (done.stderr.strip().splitlines() or ["no predefined macros"])[0]
        raise ConfigError(f"the compiler does not name its target: {first}", hint="set NN_CPU, e.g. NN_CPU='cortex-m0'")
    found = of_macros(macros)
    named_by_flag = [word.removeprefix("-mcpu=").partition("+")[0] for word in command if word.startswith("-mcpu=")]
    core = TARGETS.get(named_by_flag[-1] if named_by_flag else "", found)
    return core if replace(core, cpu=found.cpu) == found else found
