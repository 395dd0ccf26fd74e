"""The operators: one module each with its record `OPERATOR`, found by listing this folder.

`BY_ONNX` maps an ONNX type to the record that lowers its nodes, `BY_NAME` a layer's `op` to its record.
"""

from __future__ import annotations

import importlib
import pkgutil

from nnbuild.contract import Operator


def _records() -> list[Operator]:
    modules = [importlib.import_module(f"{__name__}.{entry.name}") for entry in pkgutil.iter_modules(__path__)]
    return [module.OPERATOR for module in modules if hasattr(module, "OPERATOR")]


ALL: tuple[Operator, ...] = tuple(sorted(_records(), key=lambda operator: operator.name))
BY_NAME: dict[str, Operator] = {operator.name: operator for operator in ALL}
BY_ONNX: dict[str, Operator] = {kind: operator for operator in ALL for kind in operator.onnx}
