/* SPDX-License-Identifier: 0BSD */

/* `count` rows of a map from `top` on: where they lie, or in `patch` where some are outside, which are `fill`. */
static inline const int8_t *nn_rows_from(
    const int8_t *map, int32_t height, int32_t bytes, int32_t top, int32_t count, int8_t *patch, int32_t fill)
{
    if (top >= 0 && top + count <= height) {
        return &map[top * bytes];
    }
    for (int32_t row = 0; row < count; row++) {
        const _Bool inside = top + row >= 0 && top + row < height;
        for (int32_t i = 0; i < bytes; i++) {
            patch[row * bytes + i] = (int8_t)(inside ? map[(top + row) * bytes + i] : fill);
        }
    }
    return patch;
}
