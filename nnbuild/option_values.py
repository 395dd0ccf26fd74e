"""What the value of an option may be: each parser returns the one canonical form, or raises ConfigError.

Standard library only: the SCons side imports this module.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from nnbuild.errors import ConfigError

Parser = Callable[[Any], Any]

GOALS = ("balanced", "speed", "size")
"""What kernels can be chosen for (`nnbuild.optimize`)."""

_SIZE = re.compile(r"\s*(0[xX][0-9a-fA-F]+|\d+)\s*([kKmM]?)[bB]?\s*")


def parse_size(value: Any) -> int:
    """Bytes of `240000`, `"240K"` or `"1M"`; K is 1024, as in linker scripts. ConfigError for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        match = _SIZE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise ConfigError("must be a number of bytes or text like '64K' (K is 1024)")
        base = 16 if match[1][:2] in ("0x", "0X") else 10
        size = int(match[1], base) * {"": 1, "k": 1024, "m": 1 << 20}[match[2].lower()]
    if size < 0:
        raise ConfigError("must not be negative")
    return size


def own_size(value: Any) -> int:
    """Bytes of a model's own budget, which is no part of anything."""
    if isinstance(value, str) and value.strip().endswith("%"):
        shares = "a share is of a region, which env.NNBudget(fw, linker_script=...) limits"
        raise ConfigError(f"must be bytes such as '64K' ({shares})")
    return parse_size(value)


def parse_share(value: Any) -> float:
    """A share of 1 from `0.97` or `"97%"`. ConfigError for anything else."""
    share = _share(value)
    if share is None or not 0 < share <= 1:
        raise ConfigError("must be a share above 0 and up to 1, such as 0.97 or '97%'")
    return round(share, 6)


def parse_loss(value: Any) -> float:
    """A share of 1 that may be lost, from `0.01` or `"1%"`; 0 is nothing at all. ConfigError for anything else."""
    share = _share(value)
    if share is None or not 0 <= share < 1:
        raise ConfigError("must be a share from 0 to below 1, such as 0.01 or '1%'")
    return round(share, 6)


def _share(value: Any) -> float | None:
    """The number of `0.97` or `"97%"`, whatever it is; None for anything else."""
    text = value.strip() if isinstance(value, str) else ""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%?)", text, re.ASCII)
    number = float(match[1]) / (100 if match[2] else 1) if match else value
    return float(number) if isinstance(number, (int, float)) and not isinstance(number, bool) else None


def parse_decibel(value: Any) -> float:
    """A ratio in dB above 0, from `25`, `"25"` or `"25 dB"`. ConfigError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:dB)?\s*", value, re.ASCII) if isinstance(value, str) else None
    try:
        return positive(float(match[1]) if match else value)
    except ConfigError:
        raise ConfigError("must be a ratio in dB above 0, such as 25") from None


def identifier(value: Any) -> str:
    """A prefix of C names."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", value):
        raise ConfigError("must be a C identifier that starts with a letter, such as 'kws'")
    return value


def path(value: Any) -> Any:
    """A path or a node of SCons, as it stands."""
    # A node of SCons is a path too; the SCons side turns either into a dependency.
    if isinstance(value, str) and not value:
        raise ConfigError("must be a path that is not empty")
    if isinstance(value, (bool, int, float, dict, bytes)) or value is None:
        raise ConfigError("must be a path")
    return value


def subset(*allowed: str) -> Parser:
    """Some of a few words, as a list or with commas; `none` is none of them."""

    def parse(value: object) -> str:
        words = value.split(",") if isinstance(value, str) else value
        if words == ["none"]:
            return "none"
        if not isinstance(words, list | tuple) or not words or any(word not in allowed for word in words):
            raise ConfigError(f"must be some of {', '.join(allowed)}, or none")
        return ",".join(word for word in allowed if word in words)

    return parse


def choice(*names: str) -> Parser:
    """A parser of one of `names`."""

    def parse(value: Any) -> str:
        if value not in names:
            raise ConfigError(f"must be one of {', '.join(repr(name) for name in names)}")
        return str(value)

    return parse


def count(value: Any) -> int:
    """A number of samples."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1000:
        raise ConfigError("must be a number from 0 to 1000")
    return value


def axis(value: Any) -> int:
    """An axis behind the batch."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 15:
        raise ConfigError("must be an axis from 1 (behind the batch) to 15")
    return value


def frames(value: Any) -> int:
    """A number of frames."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10**6:
        raise ConfigError("must be a number from 1 to 1000000")
    return value


def number(value: Any) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < float("inf"):
        raise ConfigError("must be a number")
    return float(value)


def positive(value: Any) -> float:
    """A number above 0."""
    if number(value) <= 0:
        raise ConfigError("must be above 0")
    return float(value)


def flag(value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise ConfigError("must be True or False")
    return value


def rows(value: Any) -> str:
    """`auto`, `never`, or segments of layers that follow each other."""
    if not isinstance(value, str) or not re.fullmatch(r"\w+(-\w+)?(\s*,\s*\w+(-\w+)?)*", value, re.ASCII):
        raise ConfigError("must be 'auto', 'never' or segments of layers, such as 'l00-l08,l09-l12'")
    return "".join(value.split())


def section(value: Any) -> str:
    """The name of a linker section."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_.][A-Za-z0-9_.]*", value):
        raise ConfigError("must be a section's name of letters, digits, '_' and '.', such as '.ext_flash'")
    return value


def weights_section(value: Any) -> str:
    """A section that may hold constants."""
    if section(value) in (".text", ".data", ".bss") or value.startswith(".bss."):
        raise ConfigError("must be a section for constants, which the linker script places")
    return str(value)


def arena_section(value: Any) -> str:
    """A section that may hold variables without contents."""
    if re.fullmatch(r"\.(text|rodata|data)(\..*)?", section(value)):
        raise ConfigError("must be a section for variables without contents, which the linker script places")
    return str(value)


def alignment(value: Any) -> int:
    """Bytes, a power of two."""
    if isinstance(value, bool) or not isinstance(value, int) or not 4 <= value <= 4096 or value & (value - 1):
        raise ConfigError("must be a power of two from 4 to 4096")
    return value


def shapes(value: Any) -> tuple[tuple[str, str], ...]:
    """`{"input": [1, 3, 32, 32]}` or `{"input": "1,3,32,32"}`, as pairs of name and `1,3,32,32`."""
    problem = "must map the input's name to its shape, such as {'input': [1, 3, 32, 32]}"
    if not isinstance(value, Mapping) or not value:
        raise ConfigError(problem)
    pairs = []
    for name, shape in value.items():
        words = shape.split(",") if isinstance(shape, str) else shape
        if not isinstance(name, str) or not isinstance(words, (list, tuple)) or not words:
            raise ConfigError(problem)
        if not all(re.fullmatch(r"\s*[1-9]\d*\s*", str(word)) for word in words):
            raise ConfigError(problem)
        pairs.append((name, ",".join(str(word).strip() for word in words)))
    return tuple(sorted(pairs))


def layers(value: Any) -> tuple[str, ...]:
    """Names of layers, nodes and inputs, each once, in their order; `"auto"` is one of them, and may stand alone."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(name, str) and name for name in names):
        raise ConfigError("must be 'auto' or a list of names, such as ['kws_l07_add', 'input_1']")
    return tuple(dict.fromkeys(names))


def pins(value: Any) -> tuple[tuple[str, str], ...]:
    """`{layer: kernel}` as sorted pairs."""
    words = [word for pair in value.items() for word in pair] if isinstance(value, Mapping) else [None]
    if not all(isinstance(word, str) and word for word in words):
        raise ConfigError("must map layers to kernels, such as {'kws_l00_conv2d': 'direct'}")
    return tuple(sorted(value.items()))


def states(value: Any) -> str | tuple[tuple[str, str], ...]:
    """`"keep"`, or `{input: output}` as sorted pairs."""
    if value == "keep":
        return "keep"
    words = [word for pair in value.items() for word in pair] if isinstance(value, Mapping) else []
    if not words or not all(isinstance(word, str) and word for word in words):
        raise ConfigError("must be 'keep' or map inputs to outputs, such as {'h0': 'hn'}")
    return tuple(sorted(value.items()))
