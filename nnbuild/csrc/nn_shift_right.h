/* SPDX-License-Identifier: 0BSD */

/* value >> shift for any sign. C99 leaves the right shift of a negative number to the compiler; this line does not
   compile where it is not arithmetic. */
typedef char nn_shift_is_arithmetic[(-1 >> 1) == -1 ? 1 : -1];

static inline int32_t nn_shift_right(int32_t value, int32_t shift)
{
    return value >> shift;
}
