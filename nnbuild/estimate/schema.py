"""The keys of what `nnbuild check --json` prints, schema 1: one table for tests and for docs/CHECK.md.

`python -m nnbuild.estimate.schema` prints the table; paths and types are those of `nnbuild.report.schema`.
"""

from __future__ import annotations

from nnbuild.report import schema
from nnbuild.report.schema import Key

SCHEMA = 1

# fmt: off
KEYS = (
    Key("schema", "integer", "1; while it stays, keys may join, and none goes or changes"),
    Key("nnbuild", "string", "version that wrote this"),
    Key("file", "string", "name of the model's file, without folders"),
    Key("cpu", "string", "core that was judged for"),
    Key("fits", "boolean", "whether all `budgets` hold"),
    Key("margin_percent", "integer", "how far flash and RAM may be off the linked image"),
    Key("flash", "integer", "bytes: the sum of the next three"),
    Key("weights", "integer", "bytes of weights and tables"),
    Key("code", "integer", "bytes of generated functions, estimated"),
    Key("library", "integer", "bytes of CMSIS-NN's functions that the model calls"),
    Key("ram", "integer", "bytes of the arena"),
    Key("macs", "integer", "multiplications with accumulation"),
    Key("cycles", "integer?", "of one inference, estimated; null where nothing is known of the core"),
    Key("us", "number?", "microseconds at the clock of the latency limit; null without one"),
    Key("wait_states", "integer", "of the flash"),
    Key("mul_cycles", "integer", "cycles of a multiplication"),
    Key("basis", "string?", "`fit` or `instructions x factor`; see COSTS.md"),
    Key("error_percent", "number?", "error of the fit; null without one"),
    Key("budgets", "list", "a row for each limit that is judged"),
    Key("budgets[].what", "string", "`flash`, `ram` or `latency`"),
    Key("budgets[].value", "number", ""),
    Key("budgets[].limit", "number", ""),
    Key("budgets[].unit", "string", "`bytes`, `us` or `cycles`"),
    Key("budgets[].over", "number", "by how much the limit is missed, 0 where it holds"),
    Key("budgets[].ok", "boolean", "whether the limit holds"),
    Key("budgets[].hint", "string", "empty; what would help is in `advice`"),
    Key("layers", "list", "in the order in which they run"),
    Key("layers[].name", "string", "as in C, behind the model's name"),
    Key("layers[].node", "string", "node of the ONNX model"),
    Key("layers[].op", "string", ""),
    Key("layers[].kernel", "string", "the one that computes it"),
    Key("layers[].output", "list", "shape, without the batch"),
    Key("layers[].output[]", "integer", ""),
    Key("layers[].weights", "integer", "bytes"),
    Key("layers[].code", "integer", "bytes"),
    Key("layers[].live", "integer", "bytes of the arena that are live while it runs"),
    Key("layers[].cycles", "integer", ""),
    Key("layers[].macs", "integer", ""),
    Key("advice", "list", "changes that would meet all limits, the smallest first"),
    Key("advice[].kind", "string", "`clamp`, `width`, `input`, `widths` (of all layers), or several with ` and `"),
    Key("advice[].change", "string", "in words"),
    Key("advice[].widths", "object", "node of the model -> its outputs then"),
    Key("advice[].widths{}", "integer", ""),
    Key("advice[].inputs", "object", "input of the model -> its shape then"),
    Key("advice[].inputs{}", "list", ""),
    Key("advice[].inputs{}[]", "integer", ""),
    Key("advice[].operators", "object", "node of the model -> its operator then"),
    Key("advice[].operators{}", "string", ""),
    Key("advice[].removed_percent", "number", "of multiplications and weights, each counting half"),
    Key("advice[].flash", "integer", "bytes with the change; so are the next five"),
    Key("advice[].weights", "integer", ""),
    Key("advice[].code", "integer", ""),
    Key("advice[].library", "integer", ""),
    Key("advice[].ram", "integer", ""),
    Key("advice[].macs", "integer", ""),
    Key("advice[].cycles", "integer", ""),
    Key("advice[].saved", "object", "differences to the model as it is"),
    Key("advice[].saved.flash", "integer", ""),
    Key("advice[].saved.ram", "integer", ""),
    Key("advice[].saved.cycles", "integer", ""),
    Key("notes", "list", "what limits the answer, a sentence each"),
    Key("notes[]", "string", ""),
)
# fmt: on

if __name__ == "__main__":
    print(schema.table(KEYS), end="")
