/* SPDX-License-Identifier: 0BSD */
/* This machine as a board: the program prints like startup.c. */
#include "board.h"

#include <stdio.h>
#include <stdlib.h>

volatile int board_case;

void board_differs(int number)
{
    printf("differs: %d\n", number);
    fflush(stdout);
}

void board_scratch(int needed, int given)
{
    if (needed != given) {
        printf("scratch needed: %d\nscratch given: %d\nin case: %d\n", needed, given, board_case);
        exit(252);
    }
}
