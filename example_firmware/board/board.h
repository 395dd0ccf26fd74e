/* SPDX-License-Identifier: 0BSD */
/* What main() needs of a board. microbit.c: BBC micro:bit v1; an386.c: Arm MPS2 with the AN386 image (Cortex-M4). */
#ifndef BOARD_H
#define BOARD_H

#include <stdint.h>

void board_start(void); /* UART and timer; called by the reset handler before main */
void uart_put(char character);
uint32_t timer_ticks(void); /* free-running, BOARD_TIMER_HZ; differences are right across its wrap */

uint32_t stack_bytes_used(void); /* the deepest that the stack has been since reset */
_Noreturn void board_exit(int status);

void put_text(const char *text);
void put_number(uint32_t number, int width); /* right-aligned, decimal */
void put_hex(uint32_t number);

#endif
