/* SPDX-License-Identifier: 0BSD */
/* Vector table and reset of a Cortex-M, in C. The symbols come from the linker script. */
#include "board.h"

#define STACK_PAINT 0xC0DEC0DEu

extern uint32_t __data_start[], __data_end[], __data_load[];
extern uint32_t __bss_start[], __bss_end[];
extern uint32_t __stack_limit[], __stack_top[];

int main(void);
void reset_handler(void);
void fault_handler(void);

void reset_handler(void)
{
    const uint32_t *from = __data_load;

    for (uint32_t *to = __data_start; to < __data_end; to++) {
        *to = *from++;
    }
    for (uint32_t *to = __bss_start; to < __bss_end; to++) {
        *to = 0u;
    }
    /* Paint the stack below this frame: what is overwritten later has been used. */
    for (uint32_t *to = __stack_limit; to < (uint32_t *)__builtin_frame_address(0) - 8; to++) {
        *to = STACK_PAINT;
    }
    board_start();
    board_exit(main());
}

uint32_t stack_bytes_used(void)
{
    const uint32_t *deepest = __stack_limit;

    while (deepest < __stack_top && *deepest == STACK_PAINT) {
        deepest++;
    }
    return (uint32_t)(__stack_top - deepest) * (uint32_t)sizeof(uint32_t);
}

void fault_handler(void)
{
    put_text("fault\n");
    board_exit(3);
}

/* Semihosting, with which QEMU and debuggers end a program: SYS_EXIT_EXTENDED, ADP_Stopped_ApplicationExit. */
_Noreturn void board_exit(int status)
{
    const uint32_t block[2] = {0x20026u, (uint32_t)status};
    register uint32_t operation __asm("r0") = 0x20u;
    register const uint32_t *argument __asm("r1") = block;

    __asm volatile("bkpt 0xab" : : "r"(operation), "r"(argument) : "memory");
    for (;;) {
    }
}

typedef void (*vector)(void);

/* The stack pointer and the 15 system exceptions; this firmware enables no interrupt. */
__attribute__((section(".vectors"), used)) static const struct {
    uint32_t *stack;
    vector exceptions[15];
} vectors = {
    __stack_top,
    {reset_handler, fault_handler, fault_handler, fault_handler, fault_handler, fault_handler, 0, 0, 0, 0,
     fault_handler, fault_handler, 0, fault_handler, fault_handler},
};
