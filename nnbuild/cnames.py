"""Names and text from a model, made safe for C."""

from __future__ import annotations

import re

from nnbuild.errors import ConfigError

# fmt: off
KEYWORDS = frozenset((
    "auto", "break", "case", "char", "const", "continue", "default", "do", "double", "else", "enum", "extern",
    "float", "for", "goto", "if", "inline", "int", "long", "register", "restrict", "return", "short", "signed",
    "sizeof", "static", "struct", "switch", "typedef", "union", "unsigned", "void", "volatile", "while", "asm",
    "bool", "catch", "class", "delete", "friend", "namespace", "new", "operator", "private", "protected", "public",
    "template", "this", "throw", "try", "using", "virtual",
))
"""Of C99, and those of C++ that a header must not use."""

HEADERS = frozenset((
    "assert", "complex", "ctype", "errno", "fenv", "float", "inttypes", "iso646", "limits", "locale", "math", "setjmp",
    "signal", "stdalign", "stdarg", "stdatomic", "stdbool", "stddef", "stdint", "stdio", "stdlib", "stdnoreturn",
    "string", "tgmath", "threads", "time", "uchar", "unistd", "wchar", "wctype",
))
"""Of C and POSIX: a model's header of such a name would take their place wherever its folder is searched first."""
# fmt: on


def identifier(text: str) -> str:
    """`text` as a C identifier in lower case: other characters become `_`, runs of them one."""
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_") or "x"
    return f"_{name}" if name[0].isdigit() or name in KEYWORDS else name


def model_name(text: str) -> str:
    """A model's name, which must be a C identifier already, because the firmware's author writes it in C."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text) or text in KEYWORDS:
        raise ConfigError(f"the model name '{text}' is not a C identifier", hint=f"name='{identifier(text)}'")
    if text.lower() in HEADERS:
        raise ConfigError(f"the model '{text}' would hide the header <{text.lower()}.h>", hint=f"name='{text}_model'")
    if text == "nn" or text.startswith("nn_"):
        raise ConfigError(f"the model name '{text}' begins with nn_, which is nnbuild's own", hint="name='model'")
    return text


def distinct(names: list[str]) -> list[str]:
    """Identifiers for `names`, in order, none twice."""
    taken: set[str] = set()
    result = []
    for text in names:
        base = candidate = identifier(text)
        count = 2
        while candidate in taken:
            candidate = f"{base}_{count}"
            count += 1
        taken.add(candidate)
        result.append(candidate)
    return result


def comment(text: str, limit: int = 60) -> str:
    """`text` for the inside of a C comment: printable ASCII, no end of comment, no trigraph, at most `limit` long."""
    plain = "".join(char if " " <= char <= "~" else "?" for char in text)
    plain = plain.replace("*/", "* /").replace("/*", "/ *").replace("??", "? ?").replace("\\", "/")
    return plain if len(plain) <= limit else f"{plain[: limit - 3]}..."
