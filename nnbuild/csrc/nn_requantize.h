/* SPDX-License-Identifier: 0BSD */

/* sum * multiplier * 2^(shift - 31), rounded twice as TensorFlow Lite and CMSIS-NN do; 0 <= multiplier. */
static inline int32_t nn_requantize(int32_t sum, int32_t multiplier, int32_t shift)
{
    const int32_t left = shift > 0 ? shift : 0;
    const int32_t right = shift > 0 ? 0 : -shift;
    const int32_t scaled = (int32_t)((uint32_t)sum << (uint32_t)left);
    return nn_divide_by_power_of_two(nn_multiply_high(scaled, multiplier), right);
}
