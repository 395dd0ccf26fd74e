/* SPDX-License-Identifier: 0BSD */

static inline int32_t nn_clamp(int32_t value, int32_t low, int32_t high)
{
    return value < low ? low : value > high ? high : value;
}
