"""A CMSIS-NN of a few bytes, for tests of how it is found and built: one function that doubles, and files to leave."""

from __future__ import annotations

from pathlib import Path

HEADER = """/* $Revision: V.{revision} */
#include <stdint.h>
/* arm_only_in_a_comment(void); */
int32_t arm_softmax_s8(int32_t value);
int32_t arm_avgpool_s8_get_buffer_size(int32_t value);
int32_t arm_convolve_s8(const int32_t *upscale_dims);
"""
SOURCES = {
    "SoftmaxFunctions/arm_softmax_s8.c": '#include "arm_nnfunctions.h"\n#include "arm_nnsupportfunctions.h"\n'
    "/* Not arm_softmax_f16. */\n"
    "int32_t arm_softmax_s8(int32_t value)\n{\n    unsigned char byte = value;\n"
    "    return arm_nn_double(byte); // arm_svdf_s8\n}\n",
    "SoftmaxFunctions/arm_softmax_f16.c": "int arm_softmax_f16(void)\n{\n    return missing();\n}\n",
    "NNSupportFunctions/arm_nn_double.c": '#include "arm_nnsupportfunctions.h"\n'
    "int32_t arm_nn_double(int32_t value)\n{\n    return value * 2;\n}\n",
    "PoolingFunctions/arm_avgpool_get_buffer_sizes_s8.c": '#include "arm_nnfunctions.h"\n'
    "int32_t arm_avgpool_s8_get_buffer_size(int32_t value)\n{\n    return value;\n}\n",
    "SVDFunctions/arm_svdf_s8.c": "int arm_svdf_s8(void)\n{\n    return missing();\n}\n",
}


def write(folder: Path, revision: str = "18.0.0", release: str = "") -> Path:
    """The tree in `folder`, with this revision of its header; with the description of a pack where `release` is set."""
    files = {
        "Include/arm_nnfunctions.h": HEADER.format(revision=revision),
        "Include/arm_nnsupportfunctions.h": "#include <stdint.h>\nint32_t arm_nn_double(int32_t value);\n",
        **{f"Source/{name}": text for name, text in SOURCES.items()},
    }
    if release:
        files["ARM.CMSIS-NN.pdsc"] = (
            f'<package>\n <releases>\n  <release version="{release}"/>\n </releases>\n</package>'
        )
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder
