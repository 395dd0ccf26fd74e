"""Where accuracy is lost: every layer's output against the float model, with all that came before it and alone.

Cumulative: the integer network runs as it is, and a layer's error holds those of all layers before it. Alone: each
layer runs in integers on what the float model has at its inputs, quantized; its error is its own, of rounding its
inputs, its weights and its output. Of the latter, saturation is what float values outside of the output's range make.

A tensor without a value of the float model, such as a transposed copy, is computed from the tensors in front of it.
All of it is the integer reference, in numpy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnbuild import fixedpoint, interpret
from nnbuild.layout import is_contiguous
from nnbuild.lower import Activation
from nnbuild.network import INT8_MAX, INT8_MIN, Array, Network, QuantParams
from nnbuild.passes.masks import INFINITE
from nnbuild.report.accuracy import CEILING


@dataclass(frozen=True, slots=True)
class Probe:
    """A tensor and the float value that it stands for: `value` is flat, its elements at `index` (None: as they lie)."""

    tensor: str
    value: str
    quant: QuantParams
    index: Array | None

    def real(self, values: Mapping[str, Array]) -> Array:
        """The tensor as float64, flat, in the order of the float value."""
        flat = values[self.tensor]
        return self.quant.dequantize(flat if self.index is None else flat[self.index]).astype(np.float64)

    def quantized(self, real: Array, computed: Array) -> Array:
        """`real` as the tensor holds it; elements that the value lacks, and indices, are those of `computed`."""
        if computed.dtype != self.quant.dtype:
            return computed
        flat = computed.copy()
        flat[slice(None) if self.index is None else self.index] = self.quant.quantize(real)
        return flat


@dataclass(slots=True)
class Power:
    """Sums of squares of a float value and of its error; of the latter, what lies outside of the tensor's range."""

    signal: float = 0.0
    noise: float = 0.0
    outside: float = 0.0

    def add(self, real: Array, ours: Array, quant: QuantParams | None = None) -> None:
        """Count float64 arrays of one shape; the fill of a mask, which may saturate, is no signal and no noise."""
        finite = np.abs(real) < INFINITE
        real, ours = real[finite], ours[finite]
        self.signal += float(np.sum(np.square(real)))
        self.noise += float(np.sum(np.square(real - ours)))
        if quant is not None:
            least, most = (quant.scale * (end - quant.zero_point) for end in (INT8_MIN, INT8_MAX))
            self.outside += float(np.sum(np.square(real - np.clip(real, least, most))))

    def join(self, other: Power) -> None:
        """Count what `other` has counted."""
        self.signal += other.signal
        self.noise += other.noise
        self.outside += other.outside

    @property
    def decibel(self) -> float:
        """SQNR, limited to +-CEILING, in hundredths: the last bits of a float kernel do not change a report."""
        if self.noise == 0.0:
            return CEILING
        level = 10 * math.log10(self.signal / self.noise) if self.signal > 0.0 else -CEILING
        return round(min(max(level, -CEILING), CEILING), 2)

    @property
    def saturation(self) -> float:
        """The share of the noise that is saturation, in percent."""
        return round(100 * min(1.0, self.outside / self.noise), 1) if self.noise else 0.0


@dataclass(frozen=True, slots=True)
class Levels:
    """What one tensor reaches: SQNR with all errors before it and alone, in dB; saturation in percent."""

    sqnr_db: float
    isolated_db: float
    saturation: float


class LayerComparison:
    """Both ways through a network, counted over samples; states that layers keep go on in each."""

    def __init__(self, network: Network, probes: Sequence[Probe]) -> None:
        self._network = network
        self._probes = {probe.tensor: probe for probe in probes}
        self._cumulative = {tensor: Power() for tensor in self._probes}
        self._alone = {tensor: Power() for tensor in self._probes}
        self._states: tuple[interpret.States, interpret.States] = ({}, {})

    def add(self, real: Mapping[str, Array], inputs: Sequence[Array]) -> dict[str, Array]:
        """Count one sample: `real` are float values, flat float64, `inputs` the network's; all tensors it computes."""
        ours = interpret.run_all(self._network, inputs, self._states[0])
        for probe in self._probes.values():
            self._cumulative[probe.tensor].add(real[probe.value], probe.real(ours))
        self._add_alone(real, inputs)
        return ours

    def _add_alone(self, real: Mapping[str, Array], inputs: Sequence[Array]) -> None:
        values = {port.tensor: array.ravel() for port, array in zip(self._network.inputs, inputs, strict=True)}
        with fixedpoint.rounding(self._network.single_rounding):
            for layer in self._network.layers:
                before = [values[name] for name in layer.inputs]
                computed = interpret.run_layer(self._network, layer, before, self._states[1]).ravel()
                values[layer.output] = computed
                probe = self._probes.get(layer.output)
                if probe is not None:
                    own = real[probe.value]
                    self._alone[probe.tensor].add(own, probe.real(values), probe.quant)
                    values[layer.output] = probe.quantized(own, computed)

    def levels(self) -> dict[str, Levels]:
        """By tensor, of those that stand for a value of the float model."""
        return {
            tensor: Levels(self._cumulative[tensor].decibel, alone.decibel, alone.saturation)
            for tensor, alone in self._alone.items()
        }


def probes(network: Network, values: Mapping[str, Activation], floats: Mapping[str, tuple[int, ...]]) -> list[Probe]:
    """The first value of the float model that lies in each tensor."""
    found: dict[str, Probe] = {}
    for value, place in values.items():
        if place.tensor not in found and floats.get(value) == place.shape:
            index = place.index.ravel()
            if index.size > network.tensors[place.tensor].size:
                continue  # of some values, such as the steps before the last, the network keeps nothing
            whole = index.size == network.tensors[place.tensor].size and is_contiguous(index)
            quant = network.tensors[place.tensor].quant
            found[place.tensor] = Probe(place.tensor, value, quant, None if whole else index)
    return list(found.values())
