/* SPDX-License-Identifier: 0BSD */

static inline void nn_fill(int8_t *to, int32_t value, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        to[i] = (int8_t)value;
    }
}
