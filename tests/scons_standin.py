"""A stand-in for nnbuild's commands in tests of build mechanics: it starts in milliseconds and logs its calls.

It "quantizes" text such as `weights=200 arena=100` with calibration data that are a number, and writes C with the
symbols that the real command writes. `size` is the real one, and so is `accuracy --report`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def value(arguments: list[str], flag: str) -> str:
    return arguments[arguments.index(flag) + 1] if flag in arguments else ""


def calibration(argument: str) -> int:
    path = Path(argument.rpartition(":")[0] if ".py:" in argument else argument)
    files = sorted(path.glob("*.np[yz]")) if path.is_dir() else [path]
    return sum(int(file.read_text()) for file in files)


def quantize(arguments: list[str]) -> None:
    model = Path(arguments[0]).read_text(encoding="latin-1")
    if "slow" in model:  # half a file, and then time to be interrupted in
        Path(value(arguments, "-o")).write_text("half")
        Path("started").touch()
        time.sleep(60)
    if "broken" in model:
        sys.exit(f"{arguments[0]}: node 'conv1' (Conv): broken")
    samples = value(arguments, "--calibration")
    text = f"{model.strip()} calibration={calibration(samples) if samples else 0}\n"
    Path(value(arguments, "-o")).write_text(text)


def emit(arguments: list[str]) -> None:
    text = Path(arguments[0]).read_text(encoding="latin-1")
    settings = dict(word.split("=") for word in text.split() if "=" in word)
    name, folder = value(arguments, "--name"), Path(value(arguments, "--output-dir"))
    weights, arena, fill = (
        int(settings.get(key, low)) for key, low in (("weights", 16), ("arena", 16), ("calibration", 0))
    )
    # With a CMSIS-NN, that of tests/fake_cmsis_nn.py is called.
    include = '#include "arm_nnfunctions.h"\n' if value(arguments, "--cmsis-nn") else ""
    # Room on the stack of the inference.
    room = settings.get("room", "")
    taken = f"    volatile signed char room[{room}];\n    room[at] = 1;\n" if room else ""
    result = f"arm_softmax_s8({name}_arena[0])" if include else f"{name}_arena[0]"
    part = {"instructions": 0, "cycles": int(settings.get("cycles", 0)), "waits": 100, "multiplications": 10}
    basis = settings.get("basis", "fit")
    head = {"basis": basis.replace("_", " "), "error_percent": 9.0 if basis == "fit" else None, "compiler": "gcc"}
    costs = {**head, "run": {**part, "cycles": 0}}
    files = {
        f"{name}.h": f"int {name}_run(int at);\nint {name}_selftest(void);\n",
        f"{name}.c": f'#include "{name}.h"\n{include}extern const signed char {name}_l00_conv2d_weights[{weights}];\n'
        f"static volatile signed char {name}_arena[{arena}];\n"
        f"int {name}_run(int at)\n{{\n{taken}    {name}_arena[at & 1] = {name}_l00_conv2d_weights[at];\n"
        f"    return {result};\n}}\n",
        f"{name}_weights.c": f"extern const signed char {name}_l00_conv2d_weights[{weights}];\n"
        f"const signed char {name}_l00_conv2d_weights[{weights}] = {{{fill % 100}}};\n",
        f"{name}_kernels.S": '#if defined(__linux__)\n.section .note.GNU-stack,"",%progbits\n#endif\n',
        f"{name}.report.json": f'{{"schema": 2, "name": "{name}", "model_id": "0x12345678", "cpu": "cortex-m0", '
        f'"arena_bytes": {arena}, "arena_map": [], "synthetic": false, "optimize": "balanced", "curve": [], '
        f'"scratch_bytes": 0, "layers": [{{"index": 0, '
        f'"name": "{name}_l00_conv2d", "node": "conv1", "op": "conv2d", "kernel": "direct", "reasons": {{}}, '
        f'"function": "{name}_l00_conv2d", "inputs": [[16]], "output": [16], "macs": 1000, '
        f'"weights_bytes": {weights}, "scratch_bytes": 0, "alternatives": {{}}, "cost": {json.dumps(part)}}}], '
        f'"cost": {json.dumps(costs)}}}\n',
    }
    if value(arguments, "--selftest") not in ("", "0"):
        files[f"{name}_selftest.c"] = (
            f'#include "{name}.h"\nint {name}_selftest(void)\n{{\n    return {name}_run(0) * 0;\n}}\n'
        )
    for file, content in files.items():
        (folder / file).write_text(content)


def accuracy(arguments: list[str]) -> None:
    """The validation data are a number: the agreement in percent."""
    name, agreement = value(arguments, "--name"), calibration(value(arguments, "--samples"))
    by = Path(value(arguments, "--program")).read_text() if "--program" in arguments else "reference"
    document = {"schema": 2, "name": name, "model_id": "0x12345678", "evaluated_by": by, "samples": 1}
    rest = {"agreement": agreement, "sqnr_db": 30.0, "top1": agreement, "top1_float": 99, "drop": 99 - agreement}
    layer = {"index": 0, "name": f"{name}_l00_conv2d", "node": "conv", "op": "conv2d", "sqnr_db": 30.0}
    layers = [{**layer, "added_db": 30.5, "isolated_db": 32.0, "saturation": 12.0, "weight_scales": 4}]
    lists = {"layer_samples": 1, "layers": layers, "worst": [], "confusions": []}
    text = json.dumps({**document, **rest, **lists})
    Path(value(arguments, "--json")).write_text(text)


def host(arguments: list[str]) -> None:
    """The program is the name of its compiler."""
    Path(value(arguments, "-o")).write_text(value(arguments, "--host-cc"))


COMMANDS = {"quantize": quantize, "emit": emit, "host": host, "accuracy": accuracy}


def main() -> None:
    given = sys.argv[sys.argv.index("nnbuild") + 1 :]
    arguments = json.loads(Path(given[0][1:]).read_text()) if given[0].startswith("@") else given
    with open("calls.log", "a") as log:
        log.write("\t".join(arguments) + "\n")
    if arguments[0] in COMMANDS and "--report" not in arguments:
        COMMANDS[arguments[0]](arguments[1:])
    else:
        os.execv(sys.executable, [sys.executable, *sys.argv[1:]])


main()
