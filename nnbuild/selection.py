"""Which kernels can compute each layer, and the reasons against the others."""

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


@dataclass(frozen=True, slots=True)
class Candidates:
    """The kernels that may compute one layer, the preferred one first; `reasons` says why each other kernel may not."""

    layer: Layer
    view: LayerView
    kernels: tuple[Kernel, ...]
    reasons: Mapping[str, str]

    def choose(self, kernel: Kernel, reasons: Mapping[str, str]) -> Choice:
        """One of the kernels, with the reasons against the others."""
        return Choice(self.layer, self.view, kernel, {**self.reasons, **reasons})

    def first(self) -> Choice:
        """The preferred kernel."""
        kernel, *others = self.kernels
        return self.choose(kernel, {other.name: f"{kernel.name} comes first" for other in others})


BACKENDS = ("auto", "direct", "cmsis_nn")


def select(
    network: Network, target: Target, pins: Mapping[str, str] | None = None, backend: str = "auto", prefix: str = ""
) -> tuple[Choice, ...]:
    """The first of `candidates` for each layer, whatever it costs."""
    return tuple(layer.first() for layer in candidates(network, target, pins, backend, prefix))


def candidates(
    network: Network, target: Target, pins: Mapping[str, str] | None = None, backend: str = "auto", prefix: str = ""
) -> tuple[Candidates, ...]:
    """The kernels for each layer, in order: the pinned one, or those that serve.

    `pins` maps a layer's name, with or without the model's `prefix` as reports have it (`kws_`), or its ONNX node's, to
    a kernel. `backend="direct"` never takes CMSIS-NN, `"cmsis_nn"` takes it alone wherever it serves; with `"auto"` it
    comes behind the kernels of ours that outrun it on this core. KernelError names every pin that cannot be held and
    every layer that no kernel serves.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"backend '{backend}' is unknown", hint=f"one of {', '.join(BACKENDS)}")
    if backend == "cmsis_nn" and target.cmsis_nn is None:
        raise ConfigError("backend cmsis_nn without a CMSIS-NN", hint="name its folder: --cmsis-nn DIR")
    pins = dict(pins or {})
    found: list[Candidates] = []
    findings: list[Finding] = []
    for layer in network.layers:
        view = LayerView.of(network, layer)
        given = [pins.pop(name, None) for name in (prefix + layer.name, layer.name, layer.node)]
        pin = next((kernel for kernel in given if kernel), None)
        own = _pinned(view, target, pin) if pin else _serving(view, target, backend)
        if isinstance(own, Finding):
            findings.append(own)
        else:
            found.append(own)
    for name in pins:
        hint = f"layers are {', '.join(prefix + layer.name for layer in network.layers)}"
        findings.append(Finding(f"pin of '{name}': there is no such layer", hint=hint))
    if findings:
        raise KernelError.of(findings)
    return tuple(found)


def _pinned(view: LayerView, target: Target, pin: str) -> Candidates | Finding:
    layer = view.layer
    kernels = {kernel.name: kernel for kernel in BY_NAME[layer.op].kernels}
    if pin not in kernels:
        known = ", ".join(kernels)
        return Finding(f"there is no kernel '{pin}' for {layer.op}", f"layer {layer.name}", f"kernels are {known}")
    reasons = {name: kernel.supports(view, target) for name, kernel in kernels.items()}
    if reason := reasons.pop(pin):
        return Finding(f"no kernel serves: {reason}", f"layer {layer.name}")
    against = {name: reason or "another is pinned" for name, reason in reasons.items()}
    return Candidates(layer, view, (kernels[pin],), against)


def _serving(view: LayerView, target: Target, backend: str) -> Candidates | Finding:
    layer = view.layer
    serving: list[Kernel] = []
    reasons: dict[str, str] = {}
    for kernel in _preferred(BY_NAME[layer.op].kernels, target, backend):
        reason = kernel.supports(view, target)
        if reason is None and kernel.name == "cmsis_nn" and backend == "direct":
            reason = "backend is direct"
        if reason is None and backend == "cmsis_nn" and serving and serving[0].name == "cmsis_nn":
            reason = "cmsis_nn comes first"
        if reason is None:
            serving.append(kernel)
        else:
            reasons[kernel.name] = reason
    if not serving:
        why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        return Finding(f"no kernel serves: {why}", f"layer {layer.name}")
    return Candidates(layer, view, tuple(serving), reasons)


def _preferred(kernels: tuple[Kernel, ...], target: Target, backend: str) -> list[Kernel]:
    """Kernels in the order in which they are preferred; stable, so each operator's own order decides among ours."""

    def place(kernel: Kernel) -> int:
        if kernel.name == "cmsis_nn":
            return 1
        first = backend == "direct" or (backend == "auto" and kernel.outruns_library(target))
        return 0 if first else 2

    return sorted(kernels, key=place)
