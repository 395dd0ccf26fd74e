"""The computed stack against the real one: QEMU, a core of each kind, and code that a compiler may write."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import onnx
import pytest

from nnbuild.contract import Case, LayerView
from nnbuild.emit import EmitOptions, emit
from nnbuild.lower import lower
from nnbuild.network import Network
from nnbuild.ops import ALL, BY_NAME
from nnbuild.pipeline import Request, quantized
from nnbuild.report import stack
from nnbuild.shrink import shrink
from nnbuild.target import Target
from tests import cmsis_library, host, programs, qemu

MODELS = Path(__file__).parents[1] / "example_firmware" / "models"

# Paints the stack below its own frame, calls the model with sp at `sp_at_call`, which is what the bytes count from.
MEASURE = """
    .syntax unified
    .text
    .thumb_func
    .global measure
    .type measure, %function
measure:
    push {r4, lr}
    ldr r2, =sp_at_call
    mov r3, sp
    str r3, [r2]
    ldr r2, =__stack_limit
    ldr r4, =0xC0DEC0DE
1:  stmia r2!, {r4}
    cmp r2, r3
    bne 1b
    bl net_run
    pop {r4, pc}
    .size measure, .-measure
"""
MAIN = """
#include <stdint.h>
#include "net.h"
extern uint32_t __stack_limit[];
uint32_t sp_at_call;
static int8_t input[NET_INPUT_SIZE], output[NET_OUTPUT_SIZE];
int measure(const int8_t *from, int8_t *to);
int main(void);
int main(void)
{
    const uint32_t *deepest = __stack_limit + 1; /* the startup code has a word of its own there */

    for (int i = 0; i < NET_INPUT_SIZE; i++) {
        input[i] = (int8_t)(uint8_t)(i * 37);
    }
    measure(input, output);
    while (*deepest == 0xC0DEC0DEu) {
        deepest++;
    }
    board_differs((int)(sp_at_call - (uint32_t)(uintptr_t)deepest));
    return 0;
}
"""


@pytest.fixture(scope="module")
def network() -> Network:
    """The example's convolutional network."""
    made = quantized(Request(str(MODELS / "touch_cnn.onnx"), str(MODELS / "touch_calib.npz")))
    return lower(onnx.load_from_string(made.content), "touch_cnn.onnx")


def painted(elf: Path, core: qemu.Core) -> int:
    """Bytes of stack that the inference really overwrites."""
    status, text = qemu.run(elf, core)
    assert status == 0, text
    found = re.fullmatch(r"differs: (\d+)\n", text)
    assert found is not None, text
    return int(found[1])


def image(folder: Path, network: Network, core: str, optimize: str, target: Target, **options: object) -> Path:
    library = cmsis_library.library(core) if options.get("backend") == "cmsis_nn" else cmsis_library.Library((), ())
    files = emit(network, EmitOptions("net", target, **options))  # type: ignore[arg-type]
    assembly = "".join(f'__asm("{line.strip()}");\n' for line in MEASURE.strip().splitlines())
    sources = [*host.write(folder, {**files, "main.c": MAIN, "measure.c": assembly}), folder / "net_kernels.S"]
    return qemu.link(folder, sources, qemu.CORES[core], optimize, library.compile_arguments, library.link_arguments)


@pytest.mark.parametrize(
    ("core", "optimize"),
    [
        ("m0", "-O0"),
        ("m0", "-Os"),
        ("m0", "-O2"),
        ("m3", "-O2"),
        ("m4", "-O2"),
        ("m4", "-O0"),
        ("m55", "-O0"),
        ("m55", "-O3"),
    ],
)
def test_computed_is_what_is_used(tmp_path: Path, network: Network, core: str, optimize: str) -> None:
    """Never less; at most a word more, where a function makes room that it does not use."""
    qemu.need()
    elf = image(tmp_path, network, core, optimize, qemu.CORES[core].target)
    (use,) = stack.inference(elf, ["net_run"])
    assert use.bytes is not None, use.note
    assert use.bytes - 4 <= painted(elf, qemu.CORES[core]) <= use.bytes
    assert use.path[0] == "net_run"


# Calls `run` with the stack below painted, and tells how much of it is no longer.
MEASURE_RUN = """
    .syntax unified
    .text
    .thumb_func
    .global measured
    .type measured, %function
measured:
    push {r4, r5, r6, lr}
    ldr r3, =sp_at_call
    mov r4, sp
    str r4, [r3]
    ldr r3, =__stack_limit
    adds r3, #4
    ldr r5, =0xC0DEC0DE
1:  stmia r3!, {r5}
    cmp r3, r4
    bne 1b
    mov r3, r0
    mov r0, r1
    mov r1, r2
    blx r3
    pop {r4, r5, r6, pc}
    .size measured, .-measured
"""
TELL_RUN = """
#include <stdint.h>
extern uint32_t __stack_limit[];
uint32_t sp_at_call;
int measured(int (*run)(int, int8_t *), int sample, int8_t *output);
int told(int (*run)(int, int8_t *), int sample, int8_t *output);
int told(int (*run)(int, int8_t *), int sample, int8_t *output)
{
    const uint32_t *deepest = __stack_limit + 1;
    const int status = measured(run, sample, output);

    while (*deepest == 0xC0DEC0DEu) {
        deepest++;
    }
    board_differs((int)(sp_at_call - (uint32_t)(uintptr_t)deepest));
    return status;
}
"""
TOLD = ["-DCASE_RUN=told", "-include", "told.h"]
TOLD_H = """
#ifndef TOLD_H
#define TOLD_H
#ifndef __ASSEMBLER__
#include <stdint.h>
int told(int (*run)(int, int8_t *), int sample, int8_t *output);
#endif
#endif
"""


def one_of_each_kernel(target: Target) -> list[tuple[Case, dict[str, str]]]:
    """A case for each kernel of ours that serves on a core, with the pin that makes it use it."""
    found: dict[tuple[str, str], tuple[Case, dict[str, str]]] = {}
    for operator in ALL:
        for case in operator.cases():
            smaller = shrink(case.network)
            for layer in smaller.layers:
                view = LayerView.of(smaller, layer)
                for kernel in BY_NAME[layer.op].kernels:
                    if kernel.name != "cmsis_nn" and kernel.supports(view, target) is None:
                        found.setdefault((layer.op, kernel.name), (case, {layer.name: kernel.name}))
    return list(found.values())


@pytest.mark.parametrize("core", ["m0", "m3", "m4", "m55"])
def test_the_stack_of_every_kernel_is_known_and_enough(tmp_path: Path, core: str) -> None:
    """C and assembly: what is computed is never less than what is used, and hardly more."""
    qemu.need()
    machine = qemu.CORES[core]
    every = one_of_each_kernel(machine.target)
    tight = 0
    for part in range(0, len(every), 40):
        cases, pins = [case for case, _ in every[part : part + 40]], [pin for _, pin in every[part : part + 40]]
        folder = tmp_path / str(part)
        written = programs.write(folder, cases, machine.target, own_pins=pins)
        assembly = "".join(f'__asm("{line.strip()}");\n' for line in MEASURE_RUN.strip().splitlines())
        sources = host.write(folder, {"told.h": TOLD_H, "told.c": TELL_RUN, "measure.c": assembly})
        elf = qemu.link(folder, [*programs.units(folder, written), *sources], machine, compile_arguments=TOLD)
        status, text = qemu.run(elf, machine)
        assert status == 0, text
        used = iter([int(line.removeprefix("differs: ")) for line in text.splitlines()])
        computed = stack.inference(elf, [f"run_m{number}" for number in range(len(cases))])
        for case, pin, use in zip(cases, pins, computed, strict=True):
            deepest = max(next(used) for _ in case.inputs[0])
            assert use.bytes is not None, (case.name, pin, use.note)
            assert deepest <= use.bytes, (case.name, pin, use.path)
            tight += use.bytes - deepest <= 8
    assert tight >= 0.9 * len(every)


@pytest.mark.parametrize(("core", "optimize"), [("m0", "-Os"), ("m4", "-O0"), ("m55", "-O2")])
def test_calls_of_cmsis_nn_and_of_the_library_count(tmp_path: Path, network: Network, core: str, optimize: str) -> None:
    """memcpy, 64-bit products, vectors that are pushed, jumps over long distances."""
    qemu.need()
    elf = image(tmp_path, network, core, optimize, cmsis_library.target(core), backend="cmsis_nn")
    (use,) = stack.inference(elf, ["net_run"])
    assert use.bytes is not None, use.note
    assert use.bytes - 4 <= painted(elf, qemu.CORES[core]) <= use.bytes
    assert any(name.startswith("arm_") for name in use.path)


# Pushes all rows and runs; tells the most that a push took, then the run. Both have two arguments of a word or none.
PUSHING = """
#include "net.h"
extern uint32_t __stack_limit[];
uint32_t sp_at_call;
static int8_t values[NET_INPUT_ROW_SIZE], output[NET_OUTPUT_SIZE];
int main(void);
int measured(void *function, intptr_t first, int8_t *second);
static int used(void)
{
    const uint32_t *deepest = __stack_limit + 1;

    while (*deepest == 0xC0DEC0DEu) {
        deepest++;
    }
    return (int)(sp_at_call - (uint32_t)(uintptr_t)deepest);
}
int main(void)
{
    int most = 0;

    for (int row = 0; row < NET_INPUT_ROWS; row++) {
        if (measured((void *)net_push_row, row, values) != 0) {
            return 1;
        }
        most = used() > most ? used() : most;
    }
    board_differs(most);
    if (measured((void *)net_run, (intptr_t)output, 0) != 0) {
        return 2;
    }
    board_differs(used());
    return 0;
}
"""


@pytest.mark.parametrize(("core", "optimize"), [("m0", "-O0"), ("m0", "-Os"), ("m0", "-O2"), ("m4", "-O2")])
def test_the_stack_of_pushed_rows(tmp_path: Path, network: Network, core: str, optimize: str) -> None:
    """Of a push and of the run behind it: what is computed is what is used, from where the function begins."""
    qemu.need()
    files = emit(network, EmitOptions("net", qemu.CORES[core].target, push_rows=True))
    assembly = "".join(f'__asm("{line.strip()}");\n' for line in MEASURE_RUN.strip().splitlines())
    sources = host.write(tmp_path, {**files, "main.c": PUSHING, "measure.c": assembly})
    elf = qemu.link(tmp_path, [*sources, tmp_path / "net_kernels.S"], qemu.CORES[core], optimize)
    status, text = qemu.run(elf, qemu.CORES[core])
    assert status == 0, text
    found = [int(line.removeprefix("differs: ")) for line in text.splitlines()]
    computed = stack.inference(elf, ["net_push_row", "net_run"])
    for use, deepest in zip(computed, found, strict=True):
        assert use.bytes is not None, use.note
        assert use.bytes - 4 <= deepest <= use.bytes, use.path


# --- what compilers and people write -----------------------------------------------------------------------------


def function(name: str, body: str) -> str:
    """A function in assembly."""
    text = body.replace("; ", "\n")
    return f".thumb_func\n.global {name}\n.type {name}, %function\n{name}:\n{text}\n.size {name}, .-{name}\n"


LEAF = function("leaf", "push {r4, lr}; sub sp, #8; add sp, #8; pop {r4, pc}")
M0, M3, M4 = "cortex-m0", "cortex-m3", "cortex-m4"
ASSEMBLY: dict[str, tuple[str, str, int]] = {
    "leaf": (M0, "bx lr", 0),
    "call": (M0, "push {r3, lr}; bl leaf; pop {r3, pc}", 24),
    "tail call": (M3, "push {r4-r7, lr}; pop {r4-r7, lr}; b.w leaf", 20),
    "tail call with a frame": (M3, "push.w {r4-r11}; b.w leaf", 48),
    "two returns": (M0, "cmp r0, #0; bne 1f; bx lr; 1: push {r4, lr}; bl leaf; pop {r4, pc}", 24),
    "conditional return": (
        M3,
        "push {r4, lr}; cmp r0, #0; it eq; popeq {r4, pc}; sub sp, #24; add sp, #24; pop {r4, pc}",
        32,
    ),
    "stores that move sp": (
        M3,
        "str lr, [sp, #-8]!; strd r4, r5, [sp, #-16]!; bl leaf; ldrd r4, r5, [sp], #16; ldr pc, [sp], #8",
        40,
    ),
    "vectors": (M4, "push {r4, lr}; vpush {d8-d10}; vpop {d8-d10}; pop {r4, pc}", 32),
    "frame pointer": (
        M0,
        "push {r7, lr}; sub sp, #40; add r7, sp, #8; bl leaf; adds r7, #32; mov sp, r7; pop {r7, pc}",
        64,
    ),
    "large frame": (
        M0,
        "push {r4, lr}; ldr r4, 1f; add sp, r4; bl leaf; ldr r4, 2f; add sp, r4; pop {r4, pc}; "
        ".align 2; 1: .word -1024; 2: .word 1024",
        1048,
    ),
    "shifted constant": (
        M0,
        "push {r4, lr}; movs r4, #128; lsls r4, r4, #3; rsbs r3, r4, #0; add sp, r3; add sp, r4; pop {r4, pc}",
        1032,
    ),
    "wide constants": (
        M3,
        "push {r4, lr}; sub.w sp, sp, #2048; subw sp, sp, #1020; mov.w r4, #3072; subs r4, #4; add.w sp, sp, r4; "
        "pop {r4, pc}",
        3076,
    ),
    "pointer that is a constant": (M0, "push {r4, lr}; ldr r4, =leaf; blx r4; blx r4; pop {r4, pc}; .ltorg", 24),
    "pointer in two halves": (M3, "movw r3, #:lower16:leaf; movt r3, #:upper16:leaf; bx r3", 16),
    "return address in a register": (M0, "mov r4, lr; bl leaf; bx r4", 16),
    "interworking return": (M0, "push {r4, lr}; bl leaf; pop {r4}; pop {r1}; bx r1", 24),
    "jump of long distance": (
        M0,
        "push {r4, lr}; cmp r0, #0; bne 1f; bl 2f; 1: sub sp, #8; add sp, #8; 2: pop {r4, pc}",
        16,
    ),
    "call that never returns": (
        M0,
        "push {r4, lr}; cmp r0, #0; beq 1f; pop {r4, pc}; 1: bl stop; nop; .align 2; .word 0xFFFFFFFF\n"
        + function("stop", "sub sp, #64; b ."),
        72,
    ),
    "next function": (M0, "nop\n" + function("next", "push {r4, lr}; pop {r4, pc}"), 8),
    "table": (M3, "push {r4, lr}; tbb [pc, r0]; 1: .byte (2f-1b)/2, (3f-1b)/2; 2: bl leaf; 3: pop {r4, pc}", 24),
}
"""Core, body of net_run, bytes. All are linked with LEAF, which takes 16."""

UNKNOWN: dict[str, tuple[str, str, str]] = {
    "recursion": (M0, "push {r4, lr}; bl net_run; pop {r4, pc}", "recursion: net_run -> net_run"),
    "recursion through another": (
        M0,
        "push {r4, lr}; bl other; pop {r4, pc}\n" + function("other", "push {r4, lr}; bl net_run; pop {r4, pc}"),
        "recursion: net_run -> other -> net_run",
    ),
    "pointer": (M0, "push {r4, lr}; blx r1; pop {r4, pc}", "net_run calls through a pointer at +0x2"),
    "jump to a pointer": (M0, "bx r2", "net_run jumps through a pointer at +0x0"),
    "room of variable size": (
        M3,
        "push {r7, lr}; mov r7, sp; sub sp, sp, r0; mov sp, r7; pop {r7, pc}",
        "not constant",
    ),
    "a growing loop": (M0, "1: sub sp, #8; cmp r0, #0; bne 1b; bx lr", "moves sp differently on two ways to +0x0"),
    "aligned": (M3, "mov r4, sp; bic r3, r4, #7; mov sp, r3; mov sp, r4; bx lr", "not constant"),
    "unbalanced": (M0, "sub sp, #8; bx lr", "net_run returns with 8 bytes on the stack"),
    "too much": (M0, "pop {r4}; push {r4}; bx lr", "takes more off the stack than it put there"),
    "another stack": (M3, "msr msp, r0; bx lr", "net_run sets sp at +0x0"),
    "no end": (M0, "nop", "net_run leaves its code"),
    "wrong pc": (M0, "push {r4}; pop {pc}", "pops a pc that is not its return address"),
}
"""Core, body of net_run, part of the reason."""


def assembled(folder: Path, core: str, body: str, behind: str = "") -> stack.StackUse:
    qemu.need()
    head = ".syntax unified\n.text\n.thumb\n" + (".fpu fpv4-sp-d16\n" if core == M4 else "")
    (folder / "code.s").write_text(head + LEAF + function("net_run", body) + behind)
    command = [qemu.COMPILER, f"-mcpu={core}", "-mthumb", "-nostdlib", "-Wl,-enet_run", "code.s", "-o", "fw.elf"]
    subprocess.run(command, cwd=folder, check=True)
    return stack.inference(folder / "fw.elf", ["net_run"])[0]


@pytest.mark.parametrize("name", list(ASSEMBLY))
def test_known(tmp_path: Path, name: str) -> None:
    core, body, expected = ASSEMBLY[name]
    use = assembled(tmp_path, core, body)
    assert (use.bytes, use.note) == (expected, "")


@pytest.mark.parametrize("name", list(UNKNOWN))
def test_unknown(tmp_path: Path, name: str) -> None:
    core, body, reason = UNKNOWN[name]
    use = assembled(tmp_path, core, body)
    assert use.bytes is None
    assert reason in use.note


def test_the_path_leads_to_the_deepest_call(tmp_path: Path) -> None:
    other = function("other", "push {r0-r7, lr}; bl leaf; pop {r0-r7, pc}")
    use = assembled(tmp_path, M0, "push {r4, lr}; bl leaf; bl other; bl leaf; pop {r4, pc}\n" + other)
    assert use == stack.StackUse(8 + 36 + 16, ("net_run", "other", "leaf"))


SWITCH = """
int leaf(int), net_run(int);
int net_run(int x)
{
    switch (x) {
    case 0: return leaf(1) + 1;
    case 1: return leaf(2) - 1;
    case 2: return leaf(3) * 2;
    case 3: return leaf(4) ^ 3;
    case 4: return leaf(5) * 7;
    case 5: return leaf(6) | 9;
    default: return 0;
    }
}
__attribute__((noinline)) int leaf(int x) { volatile int room[50]; room[x] = x; return room[x]; }
"""


@pytest.mark.parametrize(("core", "optimize"), [(M0, "-Os"), (M0, "-O2"), (M3, "-O2"), (M3, "-O0")])
def test_switch(tmp_path: Path, core: str, optimize: str) -> None:
    """Jumps by a table: of offsets, of addresses, by a helper of gcc."""
    qemu.need()
    (tmp_path / "code.c").write_text(SWITCH)
    command = [
        qemu.COMPILER,
        f"-mcpu={core}",
        "-mthumb",
        optimize,
        "-nostartfiles",
        "-Wl,-enet_run",
        "code.c",
        "-o",
        "fw.elf",
    ]
    subprocess.run(command, cwd=tmp_path, check=True)
    (use,) = stack.inference(tmp_path / "fw.elf", ["net_run"])
    assert use.path == ("net_run", "leaf"), use.note
    assert use.bytes == (8 + 200 if optimize != "-O0" else 16 + 216)


def test_veneers_and_clones(tmp_path: Path) -> None:
    """What the linker puts between flash and RAM, and a function under the name that a compiler gave its copy."""
    qemu.need()
    text = LEAF.replace("leaf", "far_away") + function("net_run.isra.0", "push {r4, lr}; bl far_away; pop {r4, pc}")
    (tmp_path / "code.s").write_text(
        '.syntax unified\n.thumb\n.section .ram, "ax"\n'
        + text.replace(".thumb_func\n.global net", ".text\n.thumb_func\n.global net", 1)
    )
    for core, expected in ((M0, 8 + 16), (M3, 8 + 16)):
        command = [qemu.COMPILER, f"-mcpu={core}", "-mthumb", "-nostdlib", "-Wl,-enet_run.isra.0"]
        command += ["-Wl,--section-start=.ram=0x20000000,--section-start=.text=0x1000,--no-warn-rwx-segments"]
        subprocess.run([*command, "code.s", "-o", "fw.elf"], cwd=tmp_path, check=True)
        (use,) = stack.inference(tmp_path / "fw.elf", ["net_run"])
        assert use.note == ""
        assert use.path[0] == "net_run.isra.0"
        assert use.path[-1] == "far_away"
        assert use.bytes == expected


def test_what_is_not_computed(tmp_path: Path) -> None:
    qemu.need()
    (tmp_path / "code.c").write_text("int net_run(void); int net_run(void) { return 1; }\n")
    subprocess.run(["gcc", "-c", "code.c", "-o", "host.o"], cwd=tmp_path, check=True)
    subprocess.run([qemu.COMPILER, "-mcpu=cortex-m0", "-c", "code.c", "-o", "m0.o"], cwd=tmp_path, check=True)
    command = [qemu.COMPILER, "-marm", "-nostdlib", "-Wl,-enet_run", "code.c", "-o", "arm.elf"]
    subprocess.run(command, cwd=tmp_path, check=True)
    notes = {
        "host.o": "not computed for this core",
        "m0.o": "known when it is linked",
        "arm.elf": "the image has no function net_run: it was left out, or put into its caller",
        "code.c": "the file cannot be read",
    }
    for name, note in notes.items():
        assert stack.inference(tmp_path / name, ["net_run"]) == [stack.StackUse(None, (), note)]
