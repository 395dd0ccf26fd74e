"""Layers that go row by row: the same bytes as whole ones, whatever the windows, branches and pools."""

from __future__ import annotations

import ctypes
import functools
import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from nnbuild import fixedpoint, interpret
from nnbuild.contract import Case, LayerView
from nnbuild.emit import EmitOptions, emit
from nnbuild.errors import ConfigError
from nnbuild.network import Layer, Network, Port, QuantParams, Tensor, View
from nnbuild.ops import BY_NAME
from nnbuild.ops.average_pool import AveragePoolParams
from nnbuild.ops.clamp import ClampParams
from nnbuild.ops.conv2d import Conv2DParams
from nnbuild.ops.max_pool import MaxPoolParams
from nnbuild.ops.spatial import Window
from nnbuild.optimize import Aim
from nnbuild.placement import Placement
from nnbuild.ram import cuts, rows
from nnbuild.ram.cuts import WAYS
from nnbuild.ram.rows import Run, Segment, Step, Way
from nnbuild.target import TARGETS

from . import cmsis_library, host, programs, qemu, row_networks
from .row_networks import SEGMENT

GENERIC = TARGETS["generic"]
FIRST = WAYS[0]


def run_here(folder: Path, cases: Sequence[Case], mutate: tuple[str, str] = ("", ""), **options: Any) -> int:
    """The status of a program of this machine, under sanitizers."""
    sources = [path for path in programs.write(folder, cases, **options) if path.suffix == ".c"]
    if mutate[0]:
        texts = {path: path.read_text() for path in sources if path.name[0] == "m" and path.name[1:-2].isdigit()}
        assert any(re.search(mutate[0], text) for text in texts.values()), mutate
        for path, text in texts.items():
            path.write_text(re.sub(*mutate, text))
    program = folder / "program"
    command = ["gcc", "-O1", "-w", "-fsanitize=address,undefined", "-fno-sanitize-recover", "-o", str(program)]
    subprocess.run([*command, *map(str, programs.units(folder, sources))], check=True)
    return subprocess.run([str(program)], capture_output=True, check=False, timeout=120).returncode


@contextmanager
def only(way: Way) -> Iterator[None]:
    """Segments go this way and no other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuts, "WAYS", (way,))
        yield


@settings(max_examples=2, deadline=None, database=None, phases=[Phase.generate])
@given(data=st.data())
def test_rows_are_the_whole(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Read where the input lies, pushed, and with everything in the arena; by C of every kind of core, in every way."""
    io = {"placement": Placement(io="arena")}
    places: list[tuple[str, dict[str, Any]]] = [
        *((name, {}) for name in ("generic", "cortex-m0", "cortex-m4", "cortex-m55")),
        ("generic", io),
        ("generic", {"push_rows": True, **io}),
    ]
    ways = data.draw(st.permutations([*WAYS, *WAYS[:2]]))
    for (name, options), way in zip(places, ways, strict=True):
        pushed = "push_rows" in options
        cases = data.draw(st.lists(row_networks.cases(way=way, pushed=pushed), min_size=6, max_size=6))
        target = replace(TARGETS[name], guard="")
        with only(way):
            assert run_here(tmp_path_factory.mktemp(name), cases, target=target, stream_rows=SEGMENT, **options) == 0


@pytest.mark.parametrize(
    ("core", "way"),
    [("m0", WAYS[0]), ("m0", WAYS[3]), ("m4", WAYS[1]), ("m4", WAYS[3]), ("m55", WAYS[2])],
    ids=str,
)
def test_rows_on_cores(core: str, way: Way, tmp_path: Path) -> None:
    """The assembly, over the same networks on each."""
    qemu.need()
    board = qemu.CORES[core]
    board = replace(board, machine="mps2-an385", memory=qemu.MPS2) if core == "m0" else board
    with only(way):
        written = programs.write(tmp_path, fixed_cases(6, way), board.target, stream_rows=SEGMENT)
    assert qemu.run(qemu.link(tmp_path, programs.units(tmp_path, written), board), board) == (0, "")


@functools.cache
def fixed_cases(count: int, way: Way = FIRST) -> list[Case]:
    """The same networks on every machine, which are not small: of several rows and with branches."""
    found: list[Case] = []

    def large(case: Case) -> bool:
        layers = case.network.layers
        segment = rows.segment(case.network, row_networks.run_of(case.network, way))
        if segment is None or len(layers) < 5 or segment[0].height < 6:
            return False
        # Every other one has layers that do not run at each step.
        return len(found) % 2 == 0 or any(step.due.every > 1 for step in segment[0].steps)

    @settings(max_examples=400, deadline=None, database=None, phases=[Phase.generate], derandomize=True)
    @given(row_networks.cases(way=way))
    def collect(case: Case) -> None:
        if len(found) < count and large(case):
            found.append(case)

    collect()
    assert len(found) == count
    assert any(layer.op == "add" for case in found for layer in case.network.layers)
    return found


MUTANTS = [
    ("nn_rows_copy(&arena[", "(void)(&arena["),  # rows stay where they are
    ("nn_fill(&arena[", "(void)(&arena["),  # padding is what was there before
    ("= row > 0 ? sums[channel] : 0;", "= sums[channel];"),  # sums of the run before
    ("to[i] = from[i];", "to[i] = from[i - 1];"),
    ("target[2] = c;", "target[2] = d;"),
    ("since % every != 0", "0"),
    ("(int8_t)(inside ? map[(top + row) * bytes + i] : fill)", "(int8_t)fill"),
    ("return &map[top * bytes];", "return &map[top * bytes + bytes];"),
]


OF_TWO = [
    (r"nn_rows_copy\((.*)\); /\* in front", r"(void)(\1); /* in front"),
    (r"nn_rows_copy\((.*)\); /\* and the last", r"(void)(\1); /* and the last"),
    (r"(pixels = row < \d+ \?) (\d+) : \d+", r"\1 \2 : \2"),  # the mean of rows that are not there
]
"""Patterns of what there is where two rows come together and are kept apart."""


@pytest.mark.parametrize("mutant", MUTANTS, ids=[old for old, _ in MUTANTS])
def test_mutants_are_caught(mutant: tuple[str, str], tmp_path: Path) -> None:
    old, new = re.escape(mutant[0]), mutant[1]
    assert run_here(tmp_path, fixed_cases(8), (old, new), target=GENERIC, stream_rows=SEGMENT) != 0


@pytest.mark.parametrize("mutant", OF_TWO, ids=[old for old, _ in OF_TWO])
def test_mutants_of_two_rows_are_caught(mutant: tuple[str, str], tmp_path: Path) -> None:
    with only(WAYS[3]):
        assert run_here(tmp_path, fixed_cases(8, WAYS[3]), mutant, target=GENERIC, stream_rows=SEGMENT) != 0


@pytest.mark.parametrize("way", WAYS[2:], ids=str)
@pytest.mark.parametrize(("rows_", "where"), [(3, "above the first row"), (4, "below the last row")])
def test_rows_that_are_made_outside_become_padding(rows_: int, where: str, way: Way, tmp_path: Path) -> None:
    """Of an odd number of rows that come by two: one is made outside of the tensor, and the next layer pads there."""
    values = np.random.default_rng(3).integers(-128, 128, (2, 9 * 6 * 2)).astype(np.int8)
    case = Case("odd", maps(9, 2, rows_), (values,))
    left = (rf"nn_fill\((.*)\); /\* what was made {where}", r"(void)(\1); /*")
    with only(way):
        assert run_here(tmp_path, [case], target=GENERIC, stream_rows="l0-l2") == 0
        assert run_here(tmp_path, [case], left, target=GENERIC, stream_rows="l0-l2") != 0


@pytest.mark.parametrize(("height", "count", "skip"), [(9, 5, 1), (10, 5, 0)])
def test_a_row_is_skipped_where_that_takes_no_more_calls(height: int, count: int, skip: int) -> None:
    found = rows.segment(maps(height, 2), Run(0, 2, WAYS[2]))
    assert found is not None
    assert (found[0].steps[0].due.count, found[0].steps[0].due.skip) == (count, skip)


# --- what is chosen ----------------------------------------------------------------------------------------------


def maps(height: int = 48, layers: int = 4, rows_: int = 3) -> Network:
    """Convolutions of `rows_` x 3 that keep the size, and a mean."""
    maker = row_networks.Maker(lambda strategy: strategy.example(), np.random.default_rng(1))
    shape, quant = (height, 6, 8), QuantParams(0.05, -5)
    maker.tensors["x"] = Tensor("x", (height, 6, 2), quant)
    end = "x"
    for inputs in (2, *[8] * (layers - 1)):
        place = Window((height, 6, inputs), shape[:2], (rows_, 3), (1, 1), (1, 1), (1, 1), (rows_ - 2, 1))
        constants: dict[str, Any] = {
            "weights": maker.rng.integers(-127, 128, (8, rows_, 3, inputs)).astype(np.int8),
            "bias": np.zeros(8, np.int32),
            "multiplier": np.full(8, 2**30 + 5, np.int32),
            "shift": np.full(8, -9, np.int8),
        }
        end = maker.layer("conv2d", (end,), shape, quant, Conv2DParams(place, 8, 1, -5, -5, -128, 127), **constants)
    place = Window(shape, (1, 1), shape[:2], (1, 1), (1, 1), (0, 0), (0, 0))
    end = maker.layer(
        "average_pool", (end,), (1, 1, 8), quant, AveragePoolParams(place, False, False, -5, -5, -128, 127)
    )
    ports = (Port("x", "x", (height, 6, 2), ""),), (Port("y", end, (1, 1, 8), ""),)
    return Network(maker.tensors, tuple(maker.layers), *ports)


def arena(network: Network, ram: int | None = None, **options: Any) -> tuple[int, list[dict[str, Any]]]:
    """Bytes of the arena, and the segments."""
    wanted = EmitOptions("net", TARGETS["cortex-m0"], aim=Aim(ram=ram), placement=Placement(io="arena"), **options)
    report = json.loads(emit(network, wanted)["net.report.json"])
    return report["arena_bytes"], report["segments"]


def test_ram_chooses() -> None:
    """None where all fits; as few as are needed; and what is least where nothing does."""
    network = maps()
    whole, none = arena(network)
    assert arena(network, whole) == (whole, none)
    assert none == []
    for share in (0.9, 0.7, 0.6):
        limit = round(whole * share)
        found, segments = arena(network, limit)
        assert found <= limit
        assert segments
    least, _ = arena(network, 1)
    assert least < 0.7 * whole
    assert arena(network, least)[0] == least
    assert arena(network, 1, stream_rows="never") == (whole, [])
    assert arena(network, 1, push_rows=True)[0] < least - 2 * 6 * 40


def test_segments_by_name() -> None:
    network = maps()
    assert [(own["first"], own["last"]) for own in arena(network, stream_rows="l0-l1,l2-l3")[1]] == [(0, 1), (2, 3)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stream_rows": "l1-l9"}, "no layer 'l9'"),
        ({"stream_rows": "l2-l3,l0-l1"}, "must follow each other"),
        ({"stream_rows": "l2-l1"}, "must follow each other"),
        ({"stream_rows": "l2-l3", "push_rows": True}, "begins with the first layer"),
    ],
)
def test_wrong_segments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        arena(maps(), **options)


def test_layers_that_do_not_go_by_rows() -> None:
    """Nothing but the last output may be read outside, and a branch must be in the segment wholly."""
    case = next(case for case in fixed_cases(8) if any(layer.op == "add" for layer in case.network.layers))
    network = case.network
    add = next(index for index, layer in enumerate(network.layers) if layer.op == "add")
    first = min(index for index, layer in enumerate(network.layers) if layer.output in network.layers[add].inputs)
    assert rows.segment(network, Run(add, add)) is None or len(set(network.layers[add].inputs)) == 1
    if first + 1 < add:
        assert rows.segment(network, Run(first + 1, add)) is None


def pools(rescales: bool, pads_count: bool) -> Case:
    """An average of 3x3 over two rows, each of whose windows holds one row of padding."""
    shape, quant, output = (2, 4, 3), QuantParams(0.05, -5), QuantParams(0.04 if rescales else 0.05, -5)
    maker = row_networks.Maker(lambda strategy: strategy.example(), np.random.default_rng(1))
    maker.tensors["x"] = Tensor("x", shape, quant)
    place = Window(shape, shape[:2], (3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    table = [fixedpoint.quantize_multiplier(1.25 / max(count, 1), 255 * max(count, 1)) for count in range(10)]
    multipliers, shifts = zip(*table, strict=True)
    constants: dict[str, Any] = {"multiplier": np.array(multipliers, np.int32), "shift": np.array(shifts, np.int8)}
    constants = constants if rescales else {}
    params = AveragePoolParams(place, pads_count, rescales, -5, -5, -128, 127)
    end = maker.layer("average_pool", ("x",), shape, output, params, **constants)
    network = Network(maker.tensors, tuple(maker.layers), (Port("x", "x", shape, ""),), (Port("y", end, shape, ""),))
    return Case("pool", network, (maker.rng.integers(-128, 128, (3, 24)).astype(np.int8),))


@pytest.mark.parametrize("rescales", [False, True])
def test_averages_without_their_padding_do_not_go_by_rows(rescales: bool, tmp_path: Path) -> None:
    """All windows of one pool hold as much padding, which a row cannot know; where it counts, it does not matter."""
    assert rows.segment(pools(rescales, pads_count=False).network, Run(0, 0)) is None
    assert run_here(tmp_path, [pools(rescales, pads_count=True)], target=GENERIC, stream_rows="l0-l0") == 0


def test_rows_from_the_caller_to_the_caller(tmp_path: Path) -> None:
    """A segment that needs none of the arena, beside layers that do, does not ask for it: compilers would warn."""
    shape, quant = (4, 3, 2), QuantParams(0.05, -5)
    tensors = {name: Tensor(name, shape, quant) for name in "xabc"}
    one, three = (Window(shape, shape[:2], (n, n), (1, 1), (1, 1), (n // 2, n // 2), (n // 2, n // 2)) for n in (1, 3))
    layers = (
        Layer("l0", "max_pool", ("x",), "a", MaxPoolParams(one, -90, 90), {}, "n"),
        Layer("l1", "max_pool", ("x",), "b", MaxPoolParams(three, -128, 127), {}, "n"),
        Layer("l2", "clamp", ("b",), "c", ClampParams(24, -70, 70), {}, "n"),
    )
    outputs = tuple(Port(name, name, shape, "") for name in "ac")
    network = Network(tensors, layers, (Port("x", "x", shape, ""),), outputs)
    files = emit(network, EmitOptions("net", stream_rows="l0-l0"))
    assert "net_rows_l0(const int8_t *input, int8_t *output_a, int32_t step)" in files["net.c"]
    values = np.random.default_rng(0).integers(-128, 128, 24).astype(np.int8)
    found = host.call(host.shared_library(tmp_path, files), "net_run", [values], [24, 24])
    expected = interpret.run(network, [values])
    assert all(np.array_equal(a, b.ravel()) for a, b in zip(found, expected, strict=True))


def test_estimates_of_rows_count_every_row() -> None:
    network = maps()
    whole = rows.streamed(network, [Run(0, 4)])
    assert whole is not None
    for layer, plain in zip(whole.layers[:4], network.layers, strict=False):
        macs = BY_NAME[layer.op].macs
        assert macs(LayerView.of(whole, layer)) * layer.times == macs(LayerView.of(network, plain))


def test_rows_are_pushed_in_order(tmp_path: Path) -> None:
    """A row that is not the next is refused, and a run without all rows; row 0 begins anew; the self-test pushes."""
    network = maps(height=9, layers=2)
    files = emit(network, EmitOptions("net", selftest=2, push_rows=True, stream_rows="l0-l1"))
    library = host.shared_library(tmp_path, files)
    pixels = np.random.default_rng(0).integers(-128, 128, (9, 12)).astype(np.int8)
    output = np.zeros(8, np.int8)

    def push(row: int) -> int:
        return int(library.net_push_row(row, ctypes.c_void_p(pixels[row % 9].ctypes.data)))

    def run() -> int:
        return int(library.net_run(ctypes.c_void_p(output.ctypes.data)))

    assert library.net_selftest() == 0
    assert run() == 1
    assert [push(row) for row in (0, 1, 2)] == [0, 0, 0]
    assert [push(row) for row in (4, 2, -1, 9)] == [1, 1, 1, 1]
    assert run() == 1
    assert [push(row) for row in range(9)] == [0] * 9
    assert run() == 0
    assert np.array_equal(output, interpret.run(network, [pixels.ravel()])[0].ravel())
    assert run() == 1


def test_rows_with_cmsis_nn(tmp_path: Path) -> None:
    """The library's functions take rows as well as maps."""
    qemu.need()
    target, library = cmsis_library.target("m4"), cmsis_library.library("m4")
    written = programs.write(tmp_path, fixed_cases(8), target, stream_rows=SEGMENT, backend="cmsis_nn")
    flags, libraries = library.compile_arguments, library.link_arguments
    units = programs.units(tmp_path, written)
    elf = qemu.link(tmp_path, units, qemu.CORES["m4"], compile_arguments=flags, link_arguments=libraries)
    assert qemu.run(elf, qemu.CORES["m4"]) == (0, "")


def test_tensors_that_lie_in_others_do_not_go_by_rows() -> None:
    """As source, in the middle, as result, and as what others lie in; layers beside them do."""
    network = maps()
    names = ["x", *(layer.output for layer in network.layers)]
    for position, name in enumerate(names[:4]):
        tensors = {**network.tensors, "part": replace(network.tensors[name], name="part")}
        for home, part in ((name, "part"), ("part", name)):
            found = replace(network, tensors=tensors, views={part: View(home, 0)})
            for first, last in ((0, 2), (1, 1), (2, 3)):
                involved = first <= position <= last + 1
                assert (rows.streamed(found, [Run(first, last)]) is None) == involved


def test_networks_with_parts_stream_what_is_whole(tmp_path: Path) -> None:
    """The lower half of a map is read where it lies: layers in front of that map go by rows, with the right bytes."""
    whole = maps(8)
    end, half = whole.layers[3].output, 4 * 6 * 8
    lower, output = (replace(whole.tensors[end], name=name, shape=(4, 6, 8)) for name in ("lower", "y"))
    clamp = Layer("l4_clamp", "clamp", ("lower",), "y", ClampParams(half, -100, 90), {}, "clamp")
    network = Network(
        {**whole.tensors, "lower": lower, "y": output},
        (*whole.layers[:4], clamp),
        whole.inputs,
        (Port("y", "y", (4, 6, 8), ""),),
        views={"lower": View(end, half)},
    )
    network.verify()
    values = np.random.default_rng(2).integers(-128, 128, (2, 8 * 6 * 2)).astype(np.int8)
    case = Case("parts", network, (values,))
    assert run_here(tmp_path, [case], target=GENERIC, stream_rows="l0-l2", placement=Placement(io="arena")) == 0
    with pytest.raises(ConfigError, match="cannot go row by row"):
        arena(network, stream_rows="l0-l3")
    found, segments = arena(network, 1)
    assert found <= arena(network, stream_rows="never")[0]
    assert all(own["last"] < 3 for own in segments)


def least_lead(own: Segment, result: int) -> int:
    """How far below a whole source the result of `result` bytes may begin: every row that is read, and every write."""
    last = own.steps[-1]
    events: list[tuple[Step, int, int]] = []
    for now in range(own.length):
        for step in own.steps:
            call, rest = divmod(now - step.due.first, step.due.every)
            if rest == 0 and 0 <= call < step.due.count:
                tops = [max(0, call * read.stride - read.pad) for read in step.reads if read.offset is None]
                events.append((step, call, min(tops, default=own.height)))
    lead, unread = 0, own.height
    for step, call, top in reversed(events):
        unread = min(unread, top)
        end = result if step.keeps else (call + 1) * (result // step.due.count)
        if step is last and unread < own.height:
            lead = max(lead, end - unread * own.row_bytes)
    return lead


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_result_stays_below_the_rows_that_are_still_to_be_read(way: Way) -> None:
    """Where other layers read at the step of a write, it stays further below than it has to."""
    exact, network = 0, maps()
    cases = [(case.network, row_networks.run_of(case.network, way)) for case in fixed_cases(8, way)]
    count = len(network.layers)
    cases += [(network, Run(first, last, way)) for first in range(count) for last in range(first, count)]
    for found, segment in ((network, rows.segment(network, run)) for network, run in cases):
        if segment is not None:
            own, _ = segment
            least = least_lead(own, found.tensors[own.result].bytes)
            assert own.lead >= least
            exact += own.lead == least > 0
    assert exact > 4
