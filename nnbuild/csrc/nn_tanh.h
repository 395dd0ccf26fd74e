/* SPDX-License-Identifier: 0BSD */

/* Hyperbolic tangent of x / 12288 in Q0.15, from the table of the sigmoid: tanh(x) = 2 * sigmoid(2 * x) - 1. */
static inline int32_t nn_tanh(int32_t x, const uint16_t *table)
{
    const uint32_t size = x < 0 ? 0u - (uint32_t)x : (uint32_t)x;
    const uint32_t entry = size >> 8;
    uint32_t value = 65535u << 8;
    if (entry < 255u) {
        value = ((uint32_t)table[entry] << 8) + (size & 255u) * ((uint32_t)table[entry + 1u] - table[entry]);
    }
    const int32_t above = (int32_t)value - 0x800000;
    return nn_shift_right(x < 0 ? 127 - above : above + 128, 8);
}
