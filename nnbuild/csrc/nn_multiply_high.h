/* SPDX-License-Identifier: 0BSD */

/* The upper 32 bits of 2 * a * b, rounded to nearest. */
static inline int32_t nn_multiply_high(int32_t a, int32_t b)
{
    const int64_t product = (int64_t)a * b + 0x40000000;
    /* Bits 31 to 62 of the two's complement product. */
    return (int32_t)(uint32_t)((uint64_t)product >> 31);
}
