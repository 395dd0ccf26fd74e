/* SPDX-License-Identifier: 0BSD */
/* The few bytes of text output that this firmware needs, instead of a printf of 3 KB. */
#include "board.h"

void put_text(const char *text)
{
    for (; *text != '\0'; text++) {
        if (*text == '\n') {
            uart_put('\r');
        }
        uart_put(*text);
    }
}

void put_number(uint32_t number, int width)
{
    char digits[10];
    int count = 0;

    do {
        digits[count++] = (char)('0' + number % 10u);
        number /= 10u;
    } while (number != 0u);
    for (int blank = count; blank < width; blank++) {
        uart_put(' ');
    }
    while (count > 0) {
        uart_put(digits[--count]);
    }
}

void put_hex(uint32_t number)
{
    for (int shift = 28; shift >= 0; shift -= 4) {
        uart_put("0123456789abcdef"[(number >> shift) & 15u]);
    }
}
