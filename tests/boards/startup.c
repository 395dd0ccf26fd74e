/* SPDX-License-Identifier: 0BSD */
/* Vector table, reset and semihosting of a test image: any Cortex-M, nothing of the board but its memory. */
#include "board.h"

#include <stdint.h>

#define CPACR       (*(volatile uint32_t *)0xE000ED88u)
#define CP10_CP11   (0xFu << 20)
#define STACK_PAINT 0xC0DEC0DEu

#define SYS_WRITE0        0x04u
#define SYS_EXIT_EXTENDED 0x20u
#define APPLICATION_EXIT  0x20026u

#define STATUS_FAULT   254
#define STATUS_STACK   253
#define STATUS_SCRATCH 252

extern uint32_t __data_start[], __data_end[], __data_load[];
extern uint32_t __bss_start[], __bss_end[];
extern uint32_t __stack_limit[], __stack_top[];

int main(void);
void reset_handler(void);
void fault_handler(void);

volatile int board_case;

static void host(uint32_t number, const void *block)
{
    register uint32_t operation __asm("r0") = number;
    register const void *argument __asm("r1") = block;

    __asm volatile("bkpt 0xab" : "+r"(operation) : "r"(argument) : "memory");
}

static void put(const char *text, int number)
{
    char digits[12];
    char *digit = digits + sizeof digits;

    *--digit = '\0';
    *--digit = '\n';
    do {
        *--digit = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    host(SYS_WRITE0, text);
    host(SYS_WRITE0, digit);
}

static void leave(int status)
{
    const uint32_t block[2] = {APPLICATION_EXIT, (uint32_t)status};

    for (;;) {
        host(SYS_EXIT_EXTENDED, block);
    }
}

void board_differs(int number)
{
    put("differs: ", number);
}

void board_scratch(int needed, int given)
{
    if (needed != given) {
        put("scratch needed: ", needed);
        put("scratch given: ", given);
        put("in case: ", board_case);
        leave(STATUS_SCRATCH);
    }
}

void fault_handler(void)
{
    put("fault in case: ", board_case);
    leave(STATUS_FAULT);
}

/* A function of its own: nothing of it may come in front of the line that allows floating-point registers. */
__attribute__((noinline)) static void start(void)
{
    const uint32_t *from = __data_load;

    for (uint32_t *to = __data_start; to < __data_end; to++) {
        *to = *from++;
    }
    for (uint32_t *to = __bss_start; to < __bss_end; to++) {
        *to = 0u;
    }
    __stack_limit[0] = STACK_PAINT;
    const int status = main();
    if (__stack_limit[0] != STACK_PAINT) {
        put("stack overflow in case: ", board_case);
        leave(STATUS_STACK);
    }
    leave(status);
}

void reset_handler(void)
{
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
    CPACR |= CP10_CP11;
    __asm volatile("dsb\n\tisb" ::: "memory");
#endif
    start();
}

typedef void (*vector)(void);

/* The stack pointer and the 15 system exceptions; no test enables an interrupt. */
__attribute__((section(".vectors"), used)) static const struct {
    uint32_t *stack;
    vector exceptions[15];
} vectors = {
    __stack_top,
    {reset_handler, fault_handler, fault_handler, fault_handler, fault_handler, fault_handler, fault_handler, 0, 0, 0,
     fault_handler, fault_handler, 0, fault_handler, fault_handler},
};
