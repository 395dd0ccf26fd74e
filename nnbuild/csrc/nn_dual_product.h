/* SPDX-License-Identifier: 0BSD */

/* sum plus the product of both lower halves and that of both upper halves, all with signs; nothing overflows. */
static inline int32_t nn_dual_product(uint32_t a, uint32_t b, int32_t sum)
{
#if defined(__ARM_FEATURE_SIMD32) && (defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 10))
    return __builtin_arm_smlad((int32_t)a, (int32_t)b, sum);
#else
    return sum + nn_low_half(a) * nn_low_half(b) + nn_high_half(a) * nn_high_half(b);
#endif
}
