"""Size reports for tests: documents as a build writes them, with everything that is optional, and hostile ones."""

from __future__ import annotations

import copy
from typing import Any

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">'&amp;|`[x](y)"


def layer(index: int, name: str, op: str, weights: int | None, code: int | None, **more: Any) -> dict[str, Any]:
    row = {
        **{"index": index, "name": f"kws_l0{index}_{name}", "node": f"node{index}", "op": op, "kernel": "direct"},
        **{"reasons": {"cmsis_nn": "CMSIS-NN is not given"}, "function": f"kws_l0{index}_{name}"},
        **{"inputs": [[8, 8, 4]], "output": [8, 8, 4], "macs": 1000 * (index + 1), "weights": weights, "code": code},
        "assembly": None if index else {"least": 18_000, "most": 18_400, "unit": "cycles"},
        **{"cycles": 20_000 - 3_000 * index, "scratch": 64 if index else 0, "sqnr_db": 30.5 - index},
        "isolated_db": 33.0 + index,
    }
    return row | more


def buffer(name: str, kind: str, offset: int | None, size: int, first: int, last: int) -> dict[str, Any]:
    return {
        **{"name": name, "kind": kind, "shape": [size], "offset": offset},
        **{"bytes": size, "first": first, "last": last, "over": []},
    }


def full() -> dict[str, Any]:
    """An image with one model of three layers, all that can be known of it, one missed budget."""
    flash = {"weights": 3_000, "code": 1_300, "kernels": 120, "selftest": 80}
    model = {
        **{"name": "kws", "model_id": "0xfeedc0de", "cpu": "cortex-m0", "flash": {**flash, "total": 4_500}},
        **{"ram": {"arena": 640, "scratch": 0, "other": 12, "total": 652}, "other_code": 100},
        **{"scratch_in_arena": 64, "shared_arena": 0, "arena_bytes": 640},
        **{"arena_bound_bytes": 640, "arena_optimal": True, "reordered": False, "peak_layer": 1},
        "stack": {"bytes": 312, "path": ["kws_run", "kws_l00_conv2d"], "note": "without interrupts"},
        "synthetic": False,
        "optimize": "balanced",
        "curve": [
            {"flash": 12_000, "cycles": 900_000, "chosen": False},
            {"flash": 14_000, "cycles": 610_000, "chosen": True},
            {"flash": 17_500, "cycles": 520_000, "chosen": False},
        ],
        "latency": {
            **{"cycles": 51_000, "us": 1_062.5, "mhz": 48.0, "wait_states": 1, "mul_cycles": 1},
            **{"basis": "fit", "error_percent": 12.0},
        },
        "accuracy": {
            **{"evaluated_by": "gcc 12.2.0", "samples": 200, "agreement": 97.5, "sqnr_db": 28.25},
            **{"top1": 91.0, "top1_float": 91.5, "drop": 0.5},
            **{"min_agreement": 95.0, "min_sqnr": None, "max_drop": 1.0},
            **{"by": "integer reference", "layer_samples": 50},
            "layers": [
                {
                    **{"index": 0, "name": "kws_l00_conv2d", "sqnr_db": 30.5, "added_db": 31.0},
                    **{"isolated_db": 33.0, "saturation": 62.5},
                },
            ],
            "worst": [{"sample": 17, "sqnr_db": 8.25, "float": 3, "int8": 5}],
            "confusions": [{"float": 3, "int8": 5, "count": 4}, {"float": 7, "int8": 1, "count": 1}],
        },
        "ram_notes": [],
        "segments": [
            {
                "first": 0,
                "last": 1,
                "steps": 9,
                "rows_together": 1,
                "kept_bytes": 96,
                "moved_bytes": 640,
                "pushed": False,
            }
        ],
        "arena": [
            buffer("audio", "input", None, 490, 0, 0),
            buffer("l00_conv2d", "activation", 0, 256, 0, 1),
            buffer("l01_add", "activation", 0, 256, 1, 2),
            buffer("scores", "output", None, 12, 2, 2),
            buffer("l01_add", "scratch", 576, 64, 1, 1),
            buffer("l02_softmax", "scratch", 512, 64, 2, 2),
        ],
        "layers": [
            layer(0, "conv2d", "conv2d", 2_000, 700, node="model/activation/Relu;" * 20),
            layer(1, "add", "add", 0, 300),
            layer(2, "softmax", "softmax", 900, 200),
        ],
    }
    budgets = [
        {"what": "FLASH", "value": 9_000, "limit": 16_384, "unit": "bytes", "over": 0, "ok": True, "hint": ""},
        {
            **{"what": "kws latency", "value": 1_062.5, "limit": 1_000.0, "unit": "us", "over": 62.5, "ok": False},
            "hint": "longest layer kws_l00_conv2d; a faster clock",
        },
    ]
    return {
        **{"schema": 2, "nnbuild": "9.8.7", "files": ["fw.elf"], "budgets": budgets, "baseline": None},
        "regions": [
            {"name": "FLASH", "used": 9_000, "length": 32_768, "limit": 16_384, "over": 0},
            {"name": "RAM", "used": 1_200, "length": 4_096, "limit": None, "over": 0},
        ],
        "flash": {**flash, "weights": 3_000, "kernels": 620, "rest": 3_800, "unattributed": 200, "total": 9_000},
        "ram": {"arena": 640, "scratch": 0, "other": 60, "stack_reserve": 500, "total": 1_200},
        "models": [model],
        "shared_kernels": [
            {"function": "arm_convolve_s8", "bytes": 430},
            {"function": "nn_requantize", "bytes": 50},
        ],
        "licences": [
            {"component": "code generated by nnbuild", "licence": "0BSD", "bytes": 1_500},
            {"component": "CMSIS-NN", "licence": "Apache-2.0", "bytes": 500},
            {"component": "rest of the firmware and its libraries", "licence": None, "bytes": 3_800},
        ],
    }


def hostile() -> dict[str, Any]:
    """The full document with hostile text wherever a model, a file name or a linker script can put its own."""
    made = copy.deepcopy(full())
    made["files"], made["regions"][0]["name"], made["budgets"][0]["what"] = [HOSTILE], HOSTILE, HOSTILE
    made["budgets"][1]["hint"] = HOSTILE
    made["shared_kernels"][0]["function"] = HOSTILE
    model = made["models"][0]
    for row in (*model["arena"], model["accuracy"]["layers"][0]):
        row["name"] = HOSTILE
    for row in model["layers"]:
        row.update(node=HOSTILE, name=HOSTILE, reasons={HOSTILE: HOSTILE})
    model["stack"]["path"], model["accuracy"]["evaluated_by"] = [HOSTILE], HOSTILE
    return made


def _takes_over(one: dict[str, Any], two: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    """Whether the earlier of two rows lies in the tensor of the later one, which may be in parts."""
    old, new = sorted((one, two), key=lambda row: row["first"])
    parts = [row for row in rows if all(row[key] == new[key] for key in ("name", "kind", "first"))]
    end = max(row["offset"] + row["bytes"] for row in parts)
    return bool(min(row["offset"] for row in parts) <= old["offset"] and old["offset"] + old["bytes"] <= end)


def arena_faults(model: dict[str, Any]) -> list[str]:
    """What is wrong with an arena map: bytes that two live buffers share, or that are outside of the arena.

    In place, a layer's input dies where its output begins, and so does one that it is said to lie over; nothing else
    may share a byte at any layer.
    """
    placed = [row for row in model["arena"] if row["offset"] is not None]
    found = [f"{row['name']} ends outside" for row in placed if row["offset"] + row["bytes"] > model["arena_bytes"]]
    for at, one in enumerate(placed):
        for two in placed[at + 1 :]:
            apart = one["offset"] + one["bytes"] <= two["offset"] or two["offset"] + two["bytes"] <= one["offset"]
            handed_over = one["last"] == two["first"] or two["last"] == one["first"]
            said = one["name"] in two["over"] or two["name"] in one["over"] or _takes_over(one, two, placed)
            in_place = handed_over and "scratch" not in (one["kind"], two["kind"]) and said
            if not apart and not in_place and one["first"] <= two["last"] and two["first"] <= one["last"]:
                found.append(f"{one['name']} and {two['name']} share bytes")
    return found
