/* SPDX-License-Identifier: 0BSD */
/* Included in front of every source (-include): what a program of operator cases tells startup.c, or host.c. */
#ifndef BOARD_H
#define BOARD_H

#ifndef __ASSEMBLER__
extern volatile int board_case; /* the one that runs */
void board_differs(int number);
void board_scratch(int needed, int given); /* ends the program unless they are equal */
#endif

#define CASE_BEGINS(number)  (board_case = (number))
#define CASE_DIFFERS(number) board_differs(number)

/* Calls of CMSIS-NN: its own answer to how much scratch it needs, and what the memory plan gives. */
#define NN_CHECK_SCRATCH(needed, given) board_scratch((int)(needed), (int)(given))

#endif
