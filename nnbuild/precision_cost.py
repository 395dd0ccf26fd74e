"""What values of 16 bits cost whatever the core: products that read them, bytes that live at once, constants.

How outputs lie over inputs depends on kernels, so bytes are those of the core, of the two below, that needs fewer: no
budget refuses what it could hold.

Quantizing does not know the core, and costs of kernels change from version to version; an int8 file shall not. What a
set costs on two cores that differ most, with the kernels of today, is reported and decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nnbuild.contract import LayerView
from nnbuild.cost import Timing
from nnbuild.estimate.figures import Figures, Setup, figures
from nnbuild.network import Network
from nnbuild.ops import BY_NAME
from nnbuild.ram.elision import elide
from nnbuild.ram.memory import plan
from nnbuild.ram.order import reordered
from nnbuild.selection import select
from nnbuild.target import TARGETS

CORES = ("cortex-m0", "cortex-m4")

DEARER = 0.1
"""By how much a layer takes longer where it reads 16 bits: the mean of Cortex-M0 (4 %) and M4 (16 %), docs/INT16.md."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a network: products, and how many of them read 16 bits; bytes of tensors that live at once and of constants.

    What multiplies nothing counts a product for each value that it writes; what only writes 16 bits does, too.
    """

    products: int
    wide: int
    ram: int
    flash: int

    def above(self, base: Cost) -> float:
        """Growth of cycles, RAM and flash against `base`, as shares, added up."""
        return (
            DEARER * self.wide / max(self.products, 1)
            + self.ram / max(base.ram, 1)
            + self.flash / max(base.flash, 1)
            - 2.0
        )


def of(network: Network) -> Cost:
    """The cost of a lowered network."""
    products = wide = 0
    for layer in network.layers:
        written = network.tensors[layer.output]
        count = max(BY_NAME[layer.op].macs(LayerView.of(network, layer)), written.size)
        reads = any(network.tensors[name].quant.wide for name in layer.inputs)
        products += count
        wide += count if reads else written.size * written.quant.wide
    constants = sum(array.nbytes for layer in network.layers for array in layer.constants.values())
    built = reordered(elide(network))
    return Cost(products, wide, min(_ram(built, cpu) for cpu in CORES), constants)


def _ram(network: Network, cpu: str) -> int:
    """Bytes that live at once with our kernels for a core, whose outputs may lie over inputs; no scratch."""
    target = TARGETS[cpu]
    choices = select(network, target, backend="direct")
    bare = [replace(choice, kernel=replace(choice.kernel, scratch=lambda view, target: 0)) for choice in choices]
    planned = plan(network, bare, target)
    return planned.arena + planned.state_bytes


def on_cores(network: Network) -> dict[str, Figures]:
    """Estimated figures on each of CORES with own kernels."""
    return {cpu: figures(network, Setup(TARGETS[cpu], Timing(cpu), backend="direct")) for cpu in CORES}
