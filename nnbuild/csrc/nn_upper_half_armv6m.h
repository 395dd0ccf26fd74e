/* SPDX-License-Identifier: 0BSD */

/* The upper 32 bits of a * b + added; 0 <= b, and `added` is a multiple of 2^16. ARMv6-M multiplies 32 x 32 -> 32 bits
   only, so the product is put together from 16-bit halves; no partial sum leaves 32 bits. */
static inline int32_t nn_upper_half(int32_t a, int32_t b, uint32_t added)
{
    const int32_t a_high = nn_shift_right(a, 16);
    const int32_t b_high = nn_shift_right(b, 16);
    const uint32_t a_low = (uint32_t)a & 0xFFFFu;
    const uint32_t b_low = (uint32_t)b & 0xFFFFu;
    const int32_t middle = a_high * (int32_t)b_low + (int32_t)((a_low * b_low) >> 16);
    const uint32_t low = a_low * (uint32_t)b_high + ((uint32_t)middle & 0xFFFFu) + (added >> 16);
    return a_high * b_high + nn_shift_right(middle, 16) + (int32_t)(low >> 16);
}
