/* SPDX-License-Identifier: 0BSD */

/* value >> shift for any sign. C99 leaves the right shift of a negative number to the compiler; this line does not
   compile where it is not arithmetic. */
typedef char nn_shift_is_arithmetic[(-1 >> 1) == -1 ? 1 : -1];

static inline int32_t nn_shift_right(int32_t value, int32_t shift)
{
    return value >> shift;
}

/* The upper 32 bits of 2 * a * b, rounded to nearest; 0 <= b. ARMv6-M multiplies 32 x 32 -> 32 bits only, so the
   product is put together from 16-bit halves; no partial sum leaves 32 bits. */
static inline int32_t nn_multiply_high(int32_t a, int32_t b)
{
    const int32_t a_high = nn_shift_right(a, 16), b_high = nn_shift_right(b, 16);
    const uint32_t a_low = (uint32_t)a & 0xFFFFu, b_low = (uint32_t)b & 0xFFFFu;
    const int32_t middle = a_high * (int32_t)b_low + (int32_t)((a_low * b_low) >> 16);
    const uint32_t low = a_low * (uint32_t)b_high + ((uint32_t)middle & 0xFFFFu);
    const uint32_t high = (uint32_t)(a_high * b_high) + (uint32_t)nn_shift_right(middle, 16) + (low >> 16);
    /* Bits 31 to 62 of the product, and bit 30 to round. */
    return (int32_t)(2u * high + ((low >> 15) & 1u) + ((low >> 14) & 1u));
}

/* value / 2^exponent, rounded to nearest, halves away from zero; 0 <= exponent <= 31. */
static inline int32_t nn_divide_by_power_of_two(int32_t value, int32_t exponent)
{
    const int32_t mask = (int32_t)(((uint32_t)1 << exponent) - 1u);
    const int32_t remainder = value & mask;
    const int32_t threshold = nn_shift_right(mask, 1) + (value < 0 ? 1 : 0);
    return nn_shift_right(value, exponent) + (remainder > threshold ? 1 : 0);
}

/* sum * multiplier * 2^(shift - 31), rounded twice as TensorFlow Lite and CMSIS-NN do; 0 <= multiplier. */
static inline int32_t nn_requantize(int32_t sum, int32_t multiplier, int32_t shift)
{
    const int32_t left = shift > 0 ? shift : 0;
    const int32_t right = shift > 0 ? 0 : -shift;
    const int32_t scaled = (int32_t)((uint32_t)sum << left);
    return nn_divide_by_power_of_two(nn_multiply_high(scaled, multiplier), right);
}

static inline int32_t nn_clamp(int32_t value, int32_t low, int32_t high)
{
    return value < low ? low : value > high ? high : value;
}
