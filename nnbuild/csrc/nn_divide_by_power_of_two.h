/* SPDX-License-Identifier: 0BSD */

/* value / 2^exponent, rounded to nearest, halves away from zero; 0 <= exponent <= 31. */
static inline int32_t nn_divide_by_power_of_two(int32_t value, int32_t exponent)
{
    const int32_t mask = (int32_t)(((uint32_t)1 << (uint32_t)exponent) - 1u);
    const int32_t remainder = value & mask;
    const int32_t threshold = nn_shift_right(mask, 1) + (value < 0 ? 1 : 0);
    return nn_shift_right(value, exponent) + (remainder > threshold ? 1 : 0);
}
