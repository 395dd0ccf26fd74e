/* SPDX-License-Identifier: 0BSD */
/* BBC micro:bit v1: UART0 at 115200 baud to the USB chip, TIMER0 as a free-running counter at 16 MHz, which is also
 * the clock of the core: on the board a tick is a cycle (nRF51 Series Reference Manual, chapters 18 and 29). */
#include "board.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))

#define GPIO_DIRSET REGISTER(0x50000518u)

#define UART_STARTTX REGISTER(0x40002008u)
#define UART_TXDRDY  REGISTER(0x4000211Cu)
#define UART_ENABLE  REGISTER(0x40002500u)
#define UART_PSELTXD REGISTER(0x4000250Cu)
#define UART_TXD     REGISTER(0x4000251Cu)
#define UART_BAUD    REGISTER(0x40002524u)

#define TIMER0_START     REGISTER(0x40008000u)
#define TIMER0_CLEAR     REGISTER(0x4000800Cu)
#define TIMER0_CAPTURE0  REGISTER(0x40008040u)
#define TIMER0_MODE      REGISTER(0x40008504u)
#define TIMER0_BITMODE   REGISTER(0x40008508u)
#define TIMER0_PRESCALER REGISTER(0x40008510u)
#define TIMER0_CC0       REGISTER(0x40008540u)

#define TXD_PIN      24u
#define BAUD_115200  0x01D7E000u
#define MODE_TIMER   0u
#define BITMODE_32   3u
#define UART_ENABLED 4u

void board_start(void)
{
    GPIO_DIRSET = 1u << TXD_PIN;
    UART_PSELTXD = TXD_PIN;
    UART_BAUD = BAUD_115200;
    UART_ENABLE = UART_ENABLED;
    UART_STARTTX = 1u;

    TIMER0_MODE = MODE_TIMER;
    TIMER0_BITMODE = BITMODE_32;
    TIMER0_PRESCALER = 0u;
    TIMER0_CLEAR = 1u;
    TIMER0_START = 1u;
}

void uart_put(char character)
{
    UART_TXDRDY = 0u;
    UART_TXD = (uint8_t)character;
    while (UART_TXDRDY == 0u) {
    }
}

uint32_t timer_ticks(void)
{
    TIMER0_CAPTURE0 = 1u;
    return TIMER0_CC0;
}
