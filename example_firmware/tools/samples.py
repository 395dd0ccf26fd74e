"""Test samples as C arrays, each with the output that nnbuild's integer reference computes for it.

    python samples.py touch_test.npz --count 48 --raw-scale 0.0625 touch=touch.int8.onnx -o samples.c

The .npz holds the samples as its first array, (N, ...) uint8 or float32, and the right answers as `label` or `y`.
Raw uint8 samples become `sample_raw`, which the firmware converts itself; float samples are quantized here and become
`sample_input`. For each NAME=MODEL there is `sample_NAME`, the int8 outputs. Writes OUTPUT.c and OUTPUT.h.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx

from nnbuild.errors import CalibrationError, NNBuildError
from nnbuild.files import write_text
from nnbuild.interpret import run
from nnbuild.lower import lower
from nnbuild.network import Array, Network
from nnbuild.raw_input import raw_input

C_TYPES = {"uint8": "uint8_t", "int8": "int8_t"}


def array(name: str, values: Array) -> tuple[str, str]:
    """Declaration and definition of a C array; all but the first dimension become one."""
    flat = values.reshape(len(values), -1)
    size = f"[{len(flat)}]" + (f"[{flat.shape[1]}]" if values.ndim > 1 else "")
    declaration = f"const {C_TYPES[values.dtype.name]} {name}{size}"
    if values.ndim == 1:
        rows = [", ".join(str(value) for value in values)]
    else:
        rows = ["{" + ", ".join(str(value) for value in row) + "}" for row in flat]
    return f"extern {declaration};\n", f"{declaration} = {{\n    " + ",\n    ".join(rows) + ",\n};\n"


def quantized(network: Network, samples: Array, raw_scale: float) -> Array:
    """Samples (N, ...) -> int8 (N, ...) inputs of the network; raw integers as `<model>_set_input_u8` converts them."""
    quant = network.tensors[network.inputs[0].tensor].quant
    if samples.dtype == np.uint8:
        return raw_input("u8", raw_scale, 0, quant).quantize(samples)
    return quant.quantize(samples)


def outputs(network: Network, inputs: Array) -> Array:
    """int8 inputs (N, ...) -> int8 outputs (N, classes) of the integer reference."""
    shape = network.tensors[network.inputs[0].tensor].shape
    return np.stack([run(network, [sample.reshape(shape)])[0].reshape(-1) for sample in inputs])


def read(path: str, count: int) -> tuple[Array, Array]:
    """The first `count` samples and labels."""
    with np.load(path, allow_pickle=False) as archive:
        label = next((name for name in ("label", "y") if name in archive), None)
        if label is None:
            raise CalibrationError("no array 'label' or 'y'", path, "the right answers, one integer a sample")
        return archive[archive.files[0]][:count], archive[label][:count].astype(np.uint8)


def render(samples: Array, labels: Array, networks: dict[str, Network], raw_scale: float) -> tuple[str, str]:
    """Header and source."""
    arrays = [array("sample_label", labels)]
    inputs = {name: quantized(network, samples, raw_scale) for name, network in networks.items()}
    if samples.dtype == np.uint8:
        arrays.append(array("sample_raw", samples))
    else:
        arrays.append(array("sample_input", next(iter(inputs.values()))))
    arrays += [array(f"sample_{name}", outputs(networks[name], inputs[name])) for name in networks]
    intro = "/* Made by samples.py: test samples and the outputs of the integer reference. */\n"
    declarations = "".join(declaration for declaration, _ in arrays)
    guard = f"{intro}#ifndef SAMPLES_H\n#define SAMPLES_H\n\n#include <stdint.h>\n\n"
    header = f"{guard}#define SAMPLES {len(samples)}u\n\n{declarations}\n#endif\n"
    source = f'{intro}#include "samples.h"\n\n' + "\n".join(definition for _, definition in arrays)
    return header, source


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", help=".npz")
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL.int8.onnx")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--raw-scale", type=float, default=1.0, help="real value of one count")
    parser.add_argument("-o", dest="output", required=True, help="the .c file; the .h goes beside it")
    arguments = parser.parse_args()
    try:
        samples, labels = read(arguments.samples, arguments.count)
        paths = dict(text.split("=", 1) for text in arguments.models)
        networks = {name: lower(onnx.load(path), path) for name, path in paths.items()}
        header, source = render(samples, labels, networks, arguments.raw_scale)
        write_text(Path(arguments.output).with_suffix(".h"), header)
        write_text(arguments.output, source)
    except NNBuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
