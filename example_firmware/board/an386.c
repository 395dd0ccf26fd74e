/* SPDX-License-Identifier: 0BSD */
/* Arm MPS2 with the AN386 image (Arm DAI 0386): CMSDK UART 0, CMSDK timer 0, both from the 25 MHz clock of the core. */
#include "board.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))

#define TIMER_CTRL   REGISTER(0x40000000u)
#define TIMER_VALUE  REGISTER(0x40000004u)
#define TIMER_RELOAD REGISTER(0x40000008u)

#define UART_DATA    REGISTER(0x40004000u)
#define UART_STATE   REGISTER(0x40004004u)
#define UART_CTRL    REGISTER(0x40004008u)
#define UART_BAUDDIV REGISTER(0x40004010u)

#define TIMER_ENABLE    1u
#define UART_TX_ENABLE  1u
#define UART_TX_FULL    1u
#define DIVIDER_115200  217u

void board_start(void)
{
    UART_BAUDDIV = DIVIDER_115200;
    UART_CTRL = UART_TX_ENABLE;
    TIMER_RELOAD = 0xFFFFFFFFu;
    TIMER_VALUE = 0xFFFFFFFFu;
    TIMER_CTRL = TIMER_ENABLE;
}

void uart_put(char character)
{
    while ((UART_STATE & UART_TX_FULL) != 0u) {
    }
    UART_DATA = (uint8_t)character;
}

uint32_t timer_ticks(void)
{
    return 0u - TIMER_VALUE; /* it counts down */
}
