/* SPDX-License-Identifier: 0BSD */

/* The row that is due at a step, where one is `every` steps from step `first` on; -1 where none is. */
static inline int32_t nn_row_at(int32_t step, int32_t first, int32_t every)
{
    const int32_t since = step - first;
    return since < 0 || since % every != 0 ? -1 : since / every;
}
