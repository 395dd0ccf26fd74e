/* SPDX-License-Identifier: 0BSD */

#if defined(__ARM_FEATURE_SIMD32) && (defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 10))
#include <arm_acle.h>
#define NN_SMLAD(a, b, sum) __smlad((int16x2_t)(a), (int16x2_t)(b), (sum))
#endif

/* sum plus the product of both lower halves and that of both upper halves, all with signs; nothing overflows. */
static inline int32_t nn_dual_product(uint32_t a, uint32_t b, int32_t sum)
{
#if defined(NN_SMLAD)
    return NN_SMLAD(a, b, sum);
#else
    return sum + nn_low_half(a) * nn_low_half(b) + nn_high_half(a) * nn_high_half(b);
#endif
}
