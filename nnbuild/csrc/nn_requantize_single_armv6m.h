/* SPDX-License-Identifier: 0BSD */

/* sum * multiplier * 2^(shift - 31), rounded once: CMSIS-NN with CMSIS_NN_USE_SINGLE_ROUNDING; 0 <= multiplier.
   ARMv6-M multiplies 32 x 32 -> 32 bits only, so the product is put together from 16-bit halves. */
static inline int32_t nn_requantize(int32_t sum, int32_t multiplier, int32_t shift)
{
    const int32_t a_high = nn_shift_right(sum, 16);
    const int32_t b_high = nn_shift_right(multiplier, 16);
    const uint32_t a_low = (uint32_t)sum & 0xFFFFu;
    const uint32_t b_low = (uint32_t)multiplier & 0xFFFFu;
    const uint32_t bottom = a_low * b_low;
    const int32_t middle = a_high * (int32_t)b_low + (int32_t)(bottom >> 16);
    const uint32_t low = a_low * (uint32_t)b_high + ((uint32_t)middle & 0xFFFFu);
    const int32_t high =
        (int32_t)((uint32_t)(a_high * b_high) + (uint32_t)nn_shift_right(middle, 16) + (low >> 16));
    const uint32_t rest = (low << 16) | (bottom & 0xFFFFu);
    const int32_t right = 30 - shift;
    uint32_t shifted;
    if (right >= 32) {
        shifted = (uint32_t)nn_shift_right(high, right - 32);
    } else if (right > 0) {
        shifted = (rest >> (uint32_t)right) | ((uint32_t)high << (uint32_t)(32 - right));
    } else {
        shifted = rest;
    }
    return nn_shift_right((int32_t)(shifted + 1u), 1);
}
