/* SPDX-License-Identifier: 0BSD */

/* The lower 16 bits as a number with a sign. */
static inline int32_t nn_low_half(uint32_t pair)
{
    return nn_shift_right((int32_t)(pair << 16), 16);
}
