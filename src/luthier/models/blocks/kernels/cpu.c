/* Elementwise kernels of the training core for CPU: bf16 or fp32 in memory, fp32 in registers.
 *
 * reference.py says what each computes. Rows are spread over OpenMP threads. `stride` is in elements; the last
 * dimension is always contiguous. Written in plain C for the compiler to vectorise.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;
typedef int64_t i64;
#define RESTRICT __restrict__

static inline float load(bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

/* Round to nearest even; a NaN stays a NaN. */
static inline bf16 store(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return (bf16)((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

/* bf16 bits as integers in the order of the numbers they stand for (its own inverse); NaN comes out on top. */
static inline int16_t ordered(int16_t bits) { return bits ^ ((bits >> 15) & 0x7fff); }

static inline float largest_bf16(const bf16 *x, i64 n) {
    int16_t top = INT16_MIN;
    for (i64 k = 0; k < n; k++) {
        int16_t o = ordered((int16_t)x[k]);
        top = o > top ? o : top;
    }
    return load((bf16)ordered(top));
}

/* The same for fp32. */
static inline int32_t ordered_fp32(int32_t bits) { return bits ^ ((bits >> 31) & 0x7fffffff); }

static inline float largest_fp32(const float *x, i64 n) {
    int32_t top = INT32_MIN;
    for (i64 k = 0; k < n; k++) {
        int32_t bits;
        memcpy(&bits, x + k, 4);
        int32_t o = ordered_fp32(bits);
        top = o > top ? o : top;
    }
    top = ordered_fp32(top);
    float f;
    memcpy(&f, &top, 4);
    return f;
}

/* e^x to about 2 ulp: 2^n times a polynomial on [-ln2/2, ln2/2]. NaN passes through the polynomial. */
static inline float exp_(float x) {
    x = x > 88.0f ? 88.0f : x;
    float y = x < -87.0f ? -87.0f : x;
    float n = rintf(y * 1.44269504f);
    float r = y - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float scale;
    memcpy(&scale, &bits, 4);
    return x < -87.0f ? 0.0f : p * scale;
}

#define number bf16
#define NAME(kernel) kernel##_bf16
#define LOAD(x) load(x)
#define STORE(x) store(x)
#define LARGEST(x, n) largest_bf16(x, n)
#include "elementwise.h"
#undef number
#undef NAME
#undef LOAD
#undef STORE
#undef LARGEST

#define number float
#define NAME(kernel) kernel##_fp32
#define LOAD(x) (x)
#define STORE(x) (x)
#define LARGEST(x, n) largest_fp32(x, n)
#include "elementwise.h"
