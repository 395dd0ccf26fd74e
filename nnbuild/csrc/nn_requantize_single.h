/* SPDX-License-Identifier: 0BSD */

/* sum * multiplier * 2^(shift - 31), rounded once: CMSIS-NN with CMSIS_NN_USE_SINGLE_ROUNDING; 0 <= multiplier. */
static inline int32_t nn_requantize(int32_t sum, int32_t multiplier, int32_t shift)
{
    const uint64_t product = (uint64_t)((int64_t)sum * multiplier);
    /* The low 32 bits of an arithmetic shift; the product has fewer than 63 bits, so 30 - shift is at most 61. */
    const uint64_t fill = sum < 0 ? ~(uint64_t)0 : 0u;
    const int32_t right = 30 - shift;
    const uint64_t shifted = (product >> (uint32_t)right) | (right > 0 ? fill << (uint32_t)(64 - right) : 0u);
    return nn_shift_right((int32_t)((uint32_t)shifted + 1u), 1);
}
