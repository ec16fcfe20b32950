/* Vectors of fp32 as wide as the processor's, in the compiler's own types: for decode.c.
 *
 * Nothing here may leave the order of a sum to the compiler: what one token gives must not depend on the tokens beside
 * it, to the bit. So multiply-and-add is spelt out, and sums over lanes go one way only.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(LANES) /* as many as another processor has, to try its layout */
#else
#define OWN_LANES 1
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif
#endif

typedef uint16_t bf16;
typedef int64_t i64;
typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));
typedef uint16_t vh __attribute__((vector_size(2 * LANES)));
typedef int8_t vb __attribute__((vector_size(LANES)));
/* Bytes that memory is fetched by. */
#define LINE 64
#define INLINE static inline __attribute__((always_inline))

INLINE i64 up(i64 n, i64 to) { return (n + to - 1) / to * to; }
INLINE i64 least(i64 a, i64 b) { return a < b ? a : b; }
INLINE i64 most(i64 a, i64 b) { return a > b ? a : b; }

INLINE vf load(const float *p) {
    vf x;
    memcpy(&x, p, sizeof x);
    return x;
}
INLINE void store(float *p, vf x) { memcpy(p, &x, sizeof x); }
INLINE vf splat(float x) { return x - (vf){0}; }
INLINE vf pick(vi mask, vf a, vf b) { return (vf)(((vi)a & mask) | ((vi)b & ~mask)); }

/* Widening is spelt out where gcc 12 takes three steps for one. */
INLINE vf from_bf16(const bf16 *p) {
#if defined(__AVX512F__)
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16);
#elif defined(__AVX2__)
    return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16);
#else
    vh x;
    memcpy(&x, p, sizeof x);
    return (vf)(__builtin_convertvector(x, vu) << 16);
#endif
}
INLINE vf from_int8(const int8_t *p) {
#if defined(__AVX512F__)
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
#elif defined(__AVX2__)
    return (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
#else
    vb x;
    memcpy(&x, p, sizeof x);
    return __builtin_convertvector(__builtin_convertvector(x, vi), vf);
#endif
}
/* Loaded here, once, and not with each use. */
INLINE vf held(vf x) {
#if defined(__x86_64__) && OWN_LANES
    __asm__("" : "+v"(x));
#elif defined(__aarch64__) && OWN_LANES
    __asm__("" : "+w"(x));
#endif
    return x;
}

/* a b + c, in one rounding wherever the processor has that. */
INLINE vf madd(vf a, vf b, vf c) {
#if defined(__AVX512F__)
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__) && defined(__FMA__)
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

INLINE vf lower(vu pair) { return (vf)(pair << 16); }
INLINE vf upper(vu pair) { return (vf)((vu)held((vf)(pair >> 16)) << 16); } /* no mask: registers are few */

/* Processors with AVX512-BF16 add the products of two pairs of bf16 to each lane in one go. PAIRS is set where sums are
 * formed so; PORTABLE_PAIRS forms them by other means, to try the layout on any machine. */
#if defined(__AVX512BF16__) || defined(PORTABLE_PAIRS)
#define PAIRS 1
INLINE vf add_pairs(vf sum, vu a, vu b) {
#if defined(__AVX512BF16__)
    return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    return madd(upper(a), upper(b), madd(lower(a), lower(b), sum));
#endif
}
/* 2 LANES bf16 from k on; the last are 16 of a row that may be no whole multiple. */
INLINE vu pairs(const char *row, i64 k, i64 end) {
    vu x = {0};
    if (2 * LANES > 16 && k + 2 * LANES > end) memcpy(&x, row + 2 * k, 32);
    else memcpy(&x, row + 2 * k, sizeof x);
    return x;
}
#else
#define PAIRS 0
#endif

/* Rounded to what bf16 holds, to nearest even; a NaN stays a NaN. */
INLINE vf to_bf16(vf x) {
    vu bits = (vu)x;
    vu near = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000;
    return pick((vi)(bits & 0x7fffffff) > 0x7f800000, (vf)(bits | 0x00400000), (vf)near);
}
INLINE vf rounded(int half, vf x) { return half ? to_bf16(x) : x; }

INLINE float one_bf16(bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
INLINE float one_rounded(int half, float x) {
    if (!half) return x;
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint32_t near = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000;
    near = (bits & 0x7fffffff) > 0x7f800000 ? bits | 0x00400000 : near;
    memcpy(&x, &near, 4);
    return x;
}
/* The upper half of a number that bf16 holds. */
INLINE bf16 half_of(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return (bf16)(bits >> 16);
}
INLINE void store_half(bf16 *p, vf x) {
    vh y = __builtin_convertvector((vu)x >> 16, vh);
    memcpy(p, &y, sizeof y);
}

/* Element i .. of an array of the model's type. */
INLINE vf get(int half, const void *p, i64 i) {
    return half ? from_bf16((const bf16 *)p + i) : load((const float *)p + i);
}

#if defined(__AVX2__)
INLINE __m128 sum4_of_8(__m256 a, __m256 b, __m256 c, __m256 d) {
    __m256 t = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    return _mm_add_ps(_mm256_castps256_ps128(t), _mm256_extractf128_ps(t, 1));
}
#endif
#if defined(__AVX512F__)
INLINE __m256 above(vf x) { return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd((__m512)x), 1)); }
INLINE __m256 below(vf x) { return _mm512_castps512_ps256((__m512)x); }
#endif

/* The sum over the lanes of each of four vectors, neighbours first. */
INLINE void sum4(vf a, vf b, vf c, vf d, float *out) {
#if defined(__AVX512F__)
    __m128 low = sum4_of_8(below(a), below(b), below(c), below(d));
    _mm_storeu_ps(out, _mm_add_ps(low, sum4_of_8(above(a), above(b), above(c), above(d))));
#elif defined(__AVX2__)
    _mm_storeu_ps(out, sum4_of_8((__m256)a, (__m256)b, (__m256)c, (__m256)d));
#else
    const vf *x[4] = {&a, &b, &c, &d};
    for (int i = 0; i < 4; i++) {
        float s[LANES];
        store(s, *x[i]);
        for (int n = LANES / 2; n; n /= 2)
            for (int l = 0; l < n; l++) s[l] = s[2 * l] + s[2 * l + 1];
        out[i] = s[0];
    }
#endif
}
INLINE float sum(vf a) {
    float out[4];
    sum4(a, a, a, a, out);
    return out[0];
}
INLINE float largest(vf a) {
    float x[LANES], top;
    store(x, a);
    top = x[0];
    for (int l = 1; l < LANES; l++) top = x[l] > top ? x[l] : top;
    return top;
}

/* e^x to about 2 ulp: 2^n times a polynomial on [-ln2/2, ln2/2]. NaN passes through. */
INLINE vf exp_(vf x) {
    const vf low = splat(-87.0f), high = splat(88.0f), whole = splat(12582912.0f); /* 1.5 2^23 leaves no fraction */
    vf y = pick(x > high, high, x);
    y = pick(y < low, low, y);
    vf n = (madd(y, splat(1.44269504f), whole)) - whole;
    vf r = madd(n, splat(-0.693359375f), y);
    r = madd(n, splat(2.12194440e-4f), r);
    vf p = splat(1.9875691500e-4f);
    p = madd(p, r, splat(1.3981999507e-3f));
    p = madd(p, r, splat(8.3334519073e-3f));
    p = madd(p, r, splat(4.1665795894e-2f));
    p = madd(p, r, splat(1.6666665459e-1f));
    p = madd(p, r, splat(5.0000001201e-1f));
    p = madd(p * r, r, r) + 1.0f;
    vf power = (vf)((__builtin_convertvector(n, vi) + 127) << 23);
    return pick(x < low, (vf){0}, p * power);
}
