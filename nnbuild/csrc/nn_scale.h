/* SPDX-License-Identifier: 0BSD */

/* sum * slope + offset, where the slope is high + low / 2^bits and `factors` holds high and low, which is signed, in its
   halves. The sum counts for low without its lowest `dropped` bits; no product leaves 32 bits. */
static inline int32_t nn_scale(int32_t sum, int32_t factors, int32_t offset, int32_t bits, int32_t dropped)
{
    const uint32_t raised = (uint32_t)factors << 16;
    const int32_t low = nn_shift_right(sum, dropped) * nn_shift_right((int32_t)raised, 16);
    const uint32_t high = (uint32_t)sum * ((uint32_t)factors >> 16);
    const uint32_t total = high + (uint32_t)nn_shift_right(low, bits - dropped) + (uint32_t)offset;
    return (int32_t)total;
}
