"""The smallest changes of a network that meet its budgets, each found by judging the changed network.

Kinds of change: one layer with fewer outputs (and those that must follow it), a smaller input, a clamp in place of an
elementwise function that takes a table, every layer with fewer outputs. Of each kind the least that fits is looked for.
Where several budgets are missed, what is best for each alone is tried together; where nothing smaller was found, all
layers and the input together. Of what fits the one comes first that removes the least of the network's multiplications
and weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx

from nnbuild.errors import NNBuildError
from nnbuild.estimate.figures import Figures, Setup, figures
from nnbuild.estimate.resize import Edit, Shape, resized, widths
from nnbuild.estimate.shapes import network_of
from nnbuild.passes.graph import Graph

Fits = Callable[[Figures], bool]

_EIGHTHS = tuple(range(7, 0, -1))
_SMALLEST_SHARE = 4  # of its outputs a single layer keeps at least a quarter
_LEAST_AXIS = 8  # shorter axes of an input are channels, or too short to cut
_INPUT_STEPS = tuple(range(31, 15, -1))  # of 32: an input keeps at least half of an axis

# What may stand for a function that takes a table: HardTanh's clamp, or a ReLU.
_CLAMPS: Mapping[str, str] = {
    **dict.fromkeys(("Tanh", "Erf", "Softsign"), "Clip"),
    **dict.fromkeys(("LeakyRelu", "Elu", "Celu", "Selu", "Gelu", "HardSwish", "Swish", "Mish", "Softplus"), "Relu"),
}
_NAME = 36
_CLAMP_NAMES = {"Clip": "HardTanh", "Relu": "ReLU"}


@dataclass(frozen=True, slots=True)
class Advice:
    """One change: its kind, the edit, in words, figures after it, the share of multiplications and weights it removes.

    `kind` is "clamp", "width", "input", "widths" (of every layer), or several of them joined by " and ".
    """

    kind: str
    edit: Edit
    change: str
    figures: Figures
    removed: float


def advice(model: onnx.ModelProto, setup: Setup, now: Figures, budgets: Sequence[Fits]) -> list[Advice]:
    """Changes of a float `model` with the figures `now` that meet all `budgets`, smallest first; [] where none does.

    `now` may be of another form of the model (the QDQ file that it was made from): what is saved counts.
    """
    search = _Search(model, setup, now)
    found = search.kinds(budgets)
    missed = [budget for budget in budgets if not budget(now)]
    together = search.together(missed, budgets) if len(missed) > 1 else None
    if together is not None and all(together.edit != option.edit for option in found):
        found.append(together)
    if all(option.kind == "widths" for option in found):
        found += search.widths_and_input(budgets)
    return sorted(found, key=lambda option: option.removed)


class _Search:
    """The model with the edits that were judged already."""

    def __init__(self, model: onnx.ModelProto, setup: Setup, now: Figures) -> None:
        self.model = model
        self.graph = Graph(model)
        # Of what does not fit nothing else is asked for.
        self.setup = replace(setup, nearest=False)
        self.now = now
        self.budgets: Sequence[Fits] = ()
        self.judged: dict[str, tuple[Figures, Edit] | None] = {}
        self.base = figures(network_of(model, "", setup.input_layout, setup.per_tensor, setup.int16), setup)
        self.widths = widths(self.graph)

    def judge(self, edit: Edit) -> tuple[Figures, Edit] | None:
        """The figures after `edit` and all that it took; None where it leads to no network."""
        key = repr(edit)
        if key not in self.judged:
            self.judged[key] = self._judge(edit)
        return self.judged[key]

    def _judge(self, edit: Edit) -> tuple[Figures, Edit] | None:
        changed = resized(self.model, edit)
        if changed is None:
            return None
        try:
            own = self.setup
            found = figures(network_of(changed[0], "", own.input_layout, own.per_tensor, own.int16), own)
        except NNBuildError:
            return None
        return found.moved(self.now, self.base), changed[1]

    def advise(self, kind: str, edits: Sequence[tuple[Edit, Callable[[Edit], str]]]) -> Advice | None:
        """The first of `edits`, each smaller than the one before, after which everything fits."""
        low, high = 0, len(edits) - 1
        found = None
        if not edits or not self._fitting(edits[-1][0]):
            return None
        while low <= high:
            middle = (low + high) // 2
            judged = self._fitting(edits[middle][0])
            if judged is None:
                low = middle + 1
            else:
                high, found = middle - 1, (judged, edits[middle][1])
        if found is None:
            return None
        (after, edit), words = found
        return Advice(kind, edit, words(edit), after, self._removed(after))

    def _fitting(self, edit: Edit) -> tuple[Figures, Edit] | None:
        judged = self.judge(edit)
        fits = judged is not None and all(budget(judged[0]) for budget in self.budgets)
        return judged if fits else None

    def _removed(self, after: Figures) -> float:
        shares = ((self.base.macs, sum(layer.macs for layer in after.layers)), (_trained(self.base), _trained(after)))
        return sum(1 - now / before for before, now in shares if before) / len(shares)

    # The kinds of change.

    def kinds(self, budgets: Sequence[Fits]) -> list[Advice]:
        """The least change of each kind that meets `budgets`."""
        self.budgets = budgets
        return [option for option in (self.clamps(), self.width(), self.input(), self.all_widths()) if option]

    def together(self, missed: Sequence[Fits], budgets: Sequence[Fits]) -> Advice | None:
        """What is best for each missed budget alone, all of it done, where that meets all `budgets`."""
        chosen: dict[str, Advice] = {}
        for budget in missed:
            best = min(self.kinds([budget]), key=lambda option: option.removed, default=None)
            if best is None or best.kind == "widths":
                return None
            chosen[best.change] = best
        self.budgets = budgets
        edit = _merged([option.edit for option in chosen.values()])
        kinds = " and ".join(dict.fromkeys(option.kind for option in chosen.values()))
        words = [option.change for option in chosen.values() if option.kind != "input"]
        words += [self._cut(edit)] if edit.inputs else []
        return self.advise(kinds, [(edit, lambda edit: ", and ".join(words))])

    def clamps(self) -> Advice | None:
        """Tables that become clamps: the functions of one operator, or of all."""
        operators: dict[str, str] = {}
        kinds: dict[str, None] = {}
        for node in self.graph.nodes:
            if node.op_type in _CLAMPS and node.output[0] not in self.graph.outputs:
                operators[node.name] = _CLAMPS[node.op_type]
                kinds[node.op_type] = None
        names = dict.fromkeys(_CLAMP_NAMES[_CLAMPS[kind]] for kind in kinds)
        words = f"{' and '.join(names)} instead of {', '.join(kinds)}"
        return self.advise("clamp", [(Edit(operators=operators), lambda edit: words)] if operators else [])

    def width(self) -> Advice | None:
        """One layer, and those tied to it, with fewer outputs."""
        options = (
            self.advise("width", [(Edit(widths={name: size}), self._narrowed) for size in _sizes(width)])
            for name, width in self.widths.items()
        )
        return min((option for option in options if option), key=lambda option: option.removed, default=None)

    def input(self) -> Advice | None:
        """A smaller input: all of its long axes by one factor, or one of them."""
        options = (self.advise("input", [(Edit(inputs=shapes), self._cut) for shapes in cuts]) for cuts in self._cuts())
        return min((option for option in options if option), key=lambda option: option.removed, default=None)

    def all_widths(self) -> Advice | None:
        """Every layer that may have fewer outputs."""
        return self.advise("widths", [(edit, self._everywhere) for edit in self._scaled()])

    def widths_and_input(self, budgets: Sequence[Fits]) -> list[Advice]:
        """Every layer narrower and a smaller input: the best of all mixtures, [] where none fits."""
        self.budgets = budgets
        cuts = next(iter(self._cuts()), [])
        options = (
            self.advise("widths and input", [(_merged([edit, Edit(inputs=cut)]), self._everywhere) for cut in cuts])
            for edit in self._scaled()
        )
        return sorted((option for option in options if option), key=lambda option: option.removed)[:1]

    def _scaled(self) -> list[Edit]:
        free = [name for name, size in self.widths.items() if size > 1 and resized(self.model, _halved(name, size))]
        return [
            Edit(widths={name: _share(self.widths[name], eighths) for name in free}) for eighths in _EIGHTHS if free
        ]

    def _cuts(self) -> Iterator[list[Mapping[str, Shape]]]:
        shapes = {name: self.graph.shape(name) for name in self.graph.inputs}
        long = {(axis, n) for shape in shapes.values() for axis, n in enumerate(shape) if axis and n >= _LEAST_AXIS}
        axes = sorted({axis for axis, _ in long})
        square = len({size for _, size in long}) == 1
        for chosen in [axes, *([axis] for axis in axes if len(axes) > 1 and not square)]:
            cuts = [{name: _scale(shape, chosen, step) for name, shape in shapes.items()} for step in _INPUT_STEPS]
            yield [cut for index, cut in enumerate(cuts) if cut != shapes and cut not in cuts[:index]]

    # In words.

    def _narrowed(self, edit: Edit) -> str:
        layers = [f"'{short(name)}' from {self.widths[name]} to {size}" for name, size in edit.widths.items()]
        rest = f" (with it {', '.join(layers[1:])})" if layers[1:] else ""
        return f"{layers[0]} outputs{rest}"

    def _cut(self, edit: Edit) -> str:
        pairs = [(name, self.graph.shape(name), shape) for name, shape in edit.inputs.items()]
        words = [f"'{short(name)}' from {_by(old)} to {_by(new)}" for name, old, new in pairs if old != new]
        return f"input {', '.join(words)}"

    def _everywhere(self, edit: Edit) -> str:
        name = max(edit.widths, key=lambda each: self.widths[each])
        share = round(8 * edit.widths[name] / self.widths[name])
        example = f"'{short(name)}' from {self.widths[name]} to {edit.widths[name]}"
        words = f"every layer at {share}/8 of its outputs, such as {example}"
        return f"{words}, and {self._cut(edit)}" if edit.inputs else words


def _merged(edits: Sequence[Edit]) -> Edit:
    """All of `edits`; where two change the same, the smaller size."""
    sizes: dict[str, int] = {}
    inputs: dict[str, Shape] = {}
    operators: dict[str, str] = {}
    for edit in edits:
        for name, size in edit.widths.items():
            sizes[name] = min(size, sizes.get(name, size))
        for name, shape in edit.inputs.items():
            inputs[name] = tuple(map(min, shape, inputs.get(name, shape)))
        operators |= edit.operators
    return Edit(sizes, inputs, operators)


def _trained(found: Figures) -> int:
    """Bytes of constants but for the tables of functions."""
    return sum(layer.weights for layer in found.layers if layer.macs)


def _halved(name: str, size: int) -> Edit:
    return Edit(widths={name: size // 2})


def _sizes(width: int) -> list[int]:
    """Numbers of outputs below `width`, largest first, in steps that suit it."""
    step = next(step for step in (8, 4, 2, 1) if step == 1 or (width % step == 0 and width >= 4 * step))
    return [size for size in range(width - step, 0, -step) if size * _SMALLEST_SHARE >= width]


def _share(width: int, eighths: int) -> int:
    exact = width * eighths / 8
    return min(width, max(1, round(exact / 4) * 4 if width >= 16 else round(exact)))


def _scale(shape: Shape, axes: Sequence[int], steps: int) -> Shape:
    return tuple(max(1, size * steps // 32) if axis in axes else size for axis, size in enumerate(shape))


def short(name: str) -> str:
    """A node's name as a person reads it: tf2onnx joins those of several operators, others are long paths."""
    joined = name.split(";")
    own = (part for part in joined if part.rsplit("/", 1)[-1].startswith(("Conv", "MatMul", "depthwise")))
    words = next(own, joined[0]).strip("/").split("/")
    while len(words) > 1 and sum(len(word) + 1 for word in words) > _NAME:
        del words[0]
    return "/".join(words)[-_NAME:]


def _by(shape: Shape) -> str:
    return "x".join(str(size) for size in shape)
