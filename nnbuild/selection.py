"""Which kernel computes each layer, and the reasons against the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nnbuild.contract import Kernel, LayerView
from nnbuild.errors import ConfigError, Finding, KernelError
from nnbuild.network import Layer, Network
from nnbuild.ops import BY_NAME
from nnbuild.target import Target


@dataclass(frozen=True, slots=True)
class Choice:
    """The kernel of one layer; `reasons` says by name why each other kernel was not taken."""

    layer: Layer
    view: LayerView
    kernel: Kernel
    reasons: Mapping[str, str]


BACKENDS = ("auto", "direct", "cmsis_nn")


def select(
    network: Network, target: Target, pins: Mapping[str, str] | None = None, backend: str = "auto", prefix: str = ""
) -> tuple[Choice, ...]:
    """One Choice for each layer, in order: the pinned kernel, or the first that serves in the backend's order.

    `pins` maps a layer's name, with or without the model's `prefix` as reports have it (`kws_`), or its ONNX node's, to
    a kernel. `backend="direct"` never takes CMSIS-NN, `"cmsis_nn"`
    takes it wherever it serves, `"auto"` where no kernel of ours outruns it on this core. KernelError names every pin
    that cannot be held and every layer that no kernel serves.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"backend '{backend}' is unknown", hint=f"one of {', '.join(BACKENDS)}")
    if backend == "cmsis_nn" and target.cmsis_nn is None:
        raise ConfigError("backend cmsis_nn without a CMSIS-NN", hint="name its folder: --cmsis-nn DIR")
    pins = dict(pins or {})
    choices: list[Choice] = []
    findings: list[Finding] = []
    for layer in network.layers:
        view = LayerView.of(network, layer)
        given = [pins.pop(name, None) for name in (prefix + layer.name, layer.name, layer.node)]
        pin = next((kernel for kernel in given if kernel), None)
        choice = _choose(view, target, pin, backend)
        if isinstance(choice, Finding):
            findings.append(choice)
        else:
            choices.append(choice)
    for name in pins:
        hint = f"layers are {', '.join(prefix + layer.name for layer in network.layers)}"
        findings.append(Finding(f"pin of '{name}': there is no such layer", hint=hint))
    if findings:
        raise KernelError.of(findings)
    return tuple(choices)


def _choose(view: LayerView, target: Target, pin: str | None, backend: str) -> Choice | Finding:
    layer = view.layer
    kernels = _preferred(BY_NAME[layer.op].kernels, target, backend)
    where = f"layer {layer.name}"
    if pin is not None and pin not in {kernel.name for kernel in kernels}:
        known = ", ".join(kernel.name for kernel in kernels)
        return Finding(f"there is no kernel '{pin}' for {layer.op}", where, f"kernels are {known}")
    chosen: Kernel | None = None
    reasons: dict[str, str] = {}
    for kernel in kernels:
        reason = kernel.supports(view, target)
        if reason is None and pin is None and backend == "direct" and kernel.name == "cmsis_nn":
            reason = "backend is direct"
        if reason is not None:
            reasons[kernel.name] = reason
        elif chosen is None and pin in (None, kernel.name):
            chosen = kernel
        else:
            reasons[kernel.name] = "another is pinned" if pin else f"{chosen.name if chosen else ''} comes first"
    if chosen is None:
        why = reasons[pin] if pin else "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        return Finding(f"no kernel serves: {why}", where)
    return Choice(layer, view, chosen, reasons)


def _preferred(kernels: tuple[Kernel, ...], target: Target, backend: str) -> list[Kernel]:
    """Kernels in the order in which they are tried; stable, so each operator's own order decides among ours."""

    def place(kernel: Kernel) -> int:
        if kernel.name == "cmsis_nn":
            return 1
        first = backend == "direct" or (backend == "auto" and kernel.outruns_library(target))
        return 0 if first else 2

    return sorted(kernels, key=place)
