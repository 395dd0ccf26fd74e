"""The limit on latency: its grammar, and how cycles from a model's report are held against it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nnbuild.errors import ConfigError
from nnbuild.latency import Latency, parse_latency
from nnbuild.report import timing
from nnbuild.report.timing import Chip

GOOD = {
    "2ms @ 48MHz, 1ws": Latency(2000, 48, 1),
    "100us @ 48MHz": Latency(100, 48),
    "250ms @ 64MHz, 1ws": Latency(250_000, 64, 1),
    "0.5 s @ 16 mhz": Latency(500_000, 16),
    ".25ms@8000kHz,0ws": Latency(250, 8, 0),
    "10µs @ 1.2GHz, 3 wait states": Latency(10, 1200, 3),
    "120000 cycles": Latency(120_000, 1, None, 120_000),
    "1,210,533 cycles, 2ws": Latency(1_210_533, 1, 2, 1_210_533),
}
BAD = {
    "": "must be a time at a clock, or cycles",
    "2ms": "must name the clock, as in '2ms @ 48MHz'",
    "2ms, 1ws": "must name the clock",
    "2 @ 48MHz": "must be a time at a clock",
    "2min @ 48MHz": "must be a time at a clock",
    "2ms @ 48": "must be a time at a clock",
    "2ms @ 48MB": "must have its clock in Hz, kHz, MHz or GHz",
    "0ms @ 48MHz": "must be above 0",
    "2ms @ 0MHz": "must be above 0",
    "0 cycles": "must be above 0",
    "-2ms @ 48MHz": "must be a time at a clock",
    "1e3 cycles": "must be a time at a clock",
    "2ms @ 48MHz, 16ws": "at most 15 wait states",
    "2ms @ 48MHz 1ws": "must be a time at a clock",
    "85%": "must be a time at a clock",
}


@pytest.mark.parametrize("text", GOOD)
def test_grammar(text: str) -> None:
    limit = parse_latency(text)
    assert limit == GOOD[text]
    assert parse_latency(str(limit)) == limit


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_limit(text: str) -> None:
    with pytest.raises(ConfigError, match=BAD[text]):
        parse_latency(text)


@pytest.mark.parametrize("value", [2, 2.0, None, True, ["2ms @ 48MHz"]])
def test_other_types(value: Any) -> None:
    with pytest.raises(ConfigError, match="must be text such as '2ms @ 48MHz'"):
        parse_latency(value)


# --- judging -----------------------------------------------------------------------------------------------------


def part(cycles: int, waits: int = 0, multiplications: int = 0) -> dict[str, int]:
    return {"instructions": cycles, "cycles": cycles, "waits": waits, "multiplications": multiplications}


def facts(basis: str = "fit", cpu: str = "cortex-m0") -> dict[str, Any]:
    """The report of a model of two layers: 1,300 cycles, 600 accesses to flash, 100 multiplications."""
    error = 7.5 if basis == "fit" else None
    return {
        "name": "kws",
        "cpu": cpu,
        "model_id": "0x0000abcd",
        "cost": {"basis": basis, "error_percent": error, "run": part(100, 50)},
        "layers": [
            {"name": "kws_l00_conv2d", "cost": part(1000, 500, 100), "alternatives": {"direct": part(2000)}},
            {"name": "kws_l01_softmax", "cost": part(200, 50), "alternatives": {"cmsis_nn": part(150, 50)}},
        ],
    }


def verdict(limit: str, chip: Chip | None = None, strict: bool = False, **options: str) -> Any:
    report, chip, parsed = facts(**options), chip or Chip(), parse_latency(limit)
    found, _ = timing.timed(report, chip, parsed)
    return timing.judged(report, found, parsed, chip, strict)


def test_cycles_of_the_chip() -> None:
    plain, _ = timing.timed(facts(), Chip(), None)
    assert plain is not None
    assert (plain.cycles, plain.layers, plain.error_percent) == (1300, (1000, 200), 7.5)
    slow, _ = timing.timed(facts(), Chip(wait_states=2, mul_cycles=32), None)
    assert slow is not None
    assert (slow.cycles, slow.waits, slow.multiplications) == (1300 + 2 * 600 + 31 * 100, 1200, 3100)


def test_wait_states_of_the_limit_win() -> None:
    assert verdict("100us @ 48MHz, 1ws", Chip(wait_states=3))[0].value == 39.6
    assert verdict("100us @ 48MHz", Chip(wait_states=3))[0].value == 64.6


def test_held_and_missed() -> None:
    assert verdict("100us @ 48MHz")[0].ok
    assert verdict("1300 cycles")[0].ok
    missed, notes = verdict("20us @ 48MHz, 1ws")
    assert not missed.ok
    assert not notes
    for text in (
        "1,900 cycles, estimated, fit error at most 7.5 %",
        "kws_l00_conv2d 1,500 (79 %), kws_l01_softmax 250",
        "pins: kws_l01_softmax=cmsis_nn 50",
        "600 cycles wait for the flash",
        "hold at 95.0 MHz",
    ):
        assert text in missed.hint


def test_a_core_without_timings_only_warns() -> None:
    found, notes = verdict("1us @ 48MHz", basis="instructions x factor", cpu="cortex-m7")
    assert found is None
    assert len(notes) == 1
    assert "instructions x factor, as cortex-m7 has no table of timings" in notes[0]
    strict, notes = verdict("1us @ 48MHz", strict=True, basis="instructions x factor", cpu="cortex-m7")
    assert not strict.ok
    assert not notes


def test_an_unknown_core() -> None:
    report = {**facts(cpu="generic"), "cost": None}
    assert timing.timed(report, Chip(), None) == (None, [])
    found, notes = timing.judged(report, None, parse_latency("1us @ 1MHz"), Chip(), strict=False)
    assert found is None
    assert "latency is not judged: nothing is known of the timings of this compiler's core" in notes[0]
    strict, _ = timing.judged(report, None, parse_latency("1us @ 1MHz"), Chip(), strict=True)
    assert strict is not None
    assert strict.value is None
    assert not strict.ok


# --- figures of the board ------------------------------------------------------------------------------------------


def measured(folder: Path, **entry: Any) -> Chip:
    path = folder / "cycles.json"
    path.write_text(json.dumps({"kws": {"model_id": "0x0000ABCD", "cycles": 4800, **entry}}))
    return Chip(wait_states=1, measured=timing.read_measured(str(path)))


def test_measured_cycles_stand_as_they_are(tmp_path: Path) -> None:
    chip = measured(tmp_path, layers=[4000, 700])
    found, notes = timing.timed(facts(), chip, None)
    assert found is not None
    assert (found.cycles, found.layers, found.basis, notes) == (4800, (4000, 700), "measured", [])
    missed, _ = verdict("99us @ 48MHz", chip, cpu="generic")
    assert missed.value == 100
    assert "measured on the board; slowest layers, cycles: kws_l00_conv2d 4,000" in missed.hint
    assert verdict("99us @ 48MHz", measured(tmp_path))[0].hint.count(";") == 1


@pytest.mark.parametrize("entry", [{"model_id": "0x1"}, {"layers": [1, 2, 3]}])
def test_measured_on_another_network(tmp_path: Path, entry: dict[str, Any]) -> None:
    found, notes = timing.timed(facts(), measured(tmp_path, **entry), None)
    assert found is not None
    assert found.basis == "fit"
    assert len(notes) == 1
    assert "estimated instead" in notes[0]


@pytest.mark.parametrize(
    "text", ["", "[]", "[1]", '{"kws": 3}', '{"kws": {"cycles": 3}}', '{"kws": {"model_id": "0x1", "cycles": -1}}']
)
def test_no_measured_cycles(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cycles.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"cycles\.json: (is no JSON|does not hold measured cycles)"):
        timing.read_measured(str(path))
    with pytest.raises(ConfigError, match="cannot be read"):
        timing.read_measured(str(tmp_path / "missing.json"))
