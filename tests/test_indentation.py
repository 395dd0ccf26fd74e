"""Generated C is indented as a person would: a template that is put into another one must not show."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from nnbuild.contract import Operator
from nnbuild.emit import EmitOptions, emit
from nnbuild.ops import ALL
from nnbuild.target import TARGETS

STEP = 4


def wrong_lines(text: str) -> list[str]:
    """Lines that begin left of the block that they are in, or close one elsewhere than it was opened."""
    found: list[str] = []
    blocks: list[int] = []
    in_comment = False
    for line in text.splitlines():
        code = re.sub(r"/\*.*?\*/|'.'|\"[^\"]*\"", "", line).strip()
        if in_comment or not code or code.startswith("#"):
            in_comment = in_comment and "*/" not in line
            continue
        indent = len(line) - len(line.lstrip())
        if blocks and (indent != blocks[-1] if code.startswith("}") else indent < blocks[-1] + STEP):
            found.append(line)
        in_comment = "/*" in code
        for brace in re.findall(r"[{}]", code.partition("/*")[0]):
            if brace == "{":
                blocks.append(indent)
            elif blocks:
                blocks.pop()
    return found


@pytest.mark.parametrize("cpu", ["cortex-m0", "cortex-m4", "cortex-m55"])
@pytest.mark.parametrize(
    "operator", [operator for operator in ALL if operator.kernels], ids=lambda operator: operator.name
)
def test_every_operators_c_is_indented(operator: Operator, cpu: str) -> None:
    target = replace(TARGETS[cpu], assembly=cpu != "cortex-m0")
    texts = [emit(case.network, EmitOptions("m", target, backend="direct"))["m.c"] for case in operator.cases()]
    assert [line for text in texts for line in wrong_lines(text)] == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("if (a) {\n    b();\n}\n", []),
        ("if (a) {\nb();\n}\n", ["b();"]),
        ("    if (a) {\n        b();\n}\n", ["}"]),
        ("f(a,\n  b);\n", []),
        ('if (a) {\n#if X\n    /* {\n } */\n    b("}");\n#endif\n}\n', []),
    ],
)
def test_wrong_lines_are_found(text: str, wrong: list[str]) -> None:
    assert wrong_lines(text) == wrong
