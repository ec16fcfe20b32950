/* Products of small bf16 matrices with AVX512-BF16, and the orders in memory that they want. For attention.c.
 *
 * The processor adds pairs of neighbours along the summed dimension, a0 b0 + a1 b1, to each of 16 fp32 lanes. The left
 * factor is broadcast one pair at a time and may lie anyhow; the right is read 16 pairs at a time, one for each lane.
 * So a matrix serves as right factor where it lies as [summed / 2][lane][2].
 */
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

typedef uint16_t bf16;
typedef uint32_t pair;
typedef int64_t i64;
#define INLINE static inline __attribute__((always_inline))
#define LANES 16
/* Lanes of a product: four registers. */
#define PANEL 64
/* Rows of the left factor of a product: 4 x 4 registers of sums are independent, more than an addition takes cycles. */
#define TILE 4

INLINE i64 up(i64 n, i64 to) { return (n + to - 1) / to * to; }
INLINE i64 least(i64 a, i64 b) { return a < b ? a : b; }
INLINE i64 most(i64 a, i64 b) { return a > b ? a : b; }

/* 2^x to 3e-6, far below the rounding of bf16. */
INLINE __m512 exp2_(__m512 x) {
    __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 f = _mm512_sub_ps(x, n);
    __m512 y = _mm512_fmadd_ps(_mm512_set1_ps(0.009570101f), f, _mm512_set1_ps(0.05591786f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(0.24024744f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(0.69312179f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(0.99999928f));
    return _mm512_scalef_ps(y, n);
}

/* (a0 .. a15, b0 .. b15) in bf16, rounded to nearest even. */
INLINE __m512i rounded(__m512 a, __m512 b) { return (__m512i)_mm512_cvtne2ps_pbh(b, a); }

/* (a0 .. a15, b0 .. b15) to (a0 b0 a1 b1 ..). */
INLINE __m512i interleaved(__m512i ab) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                           5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, ab);
}

/* sums = left (TILE rows, pairs `step` apart) times right (n registers of lanes, lines `width` apart) over `depth`. */
INLINE void product(int n, const pair *const left[TILE], i64 step, const pair *right, i64 width, i64 depth,
                    __m512 sums[TILE][4]) {
#pragma GCC unroll 4
    for (int i = 0; i < TILE; i++)
#pragma GCC unroll 4
        for (int c = 0; c < n; c++) sums[i][c] = _mm512_setzero_ps();
    for (i64 j = 0; j < depth; j++) {
        __m512bh b[4];
#pragma GCC unroll 4
        for (int c = 0; c < n; c++) b[c] = (__m512bh)_mm512_loadu_si512(right + j * width + c * LANES);
#pragma GCC unroll 4
        for (int i = 0; i < TILE; i++) {
            __m512bh a = (__m512bh)_mm512_set1_epi32((int)left[i][j * step]);
#pragma GCC unroll 4
            for (int c = 0; c < n; c++) sums[i][c] = _mm512_dpbf16_ps(sums[i][c], a, b[c]);
        }
    }
}

INLINE void multiply_n(int n, const pair *const left[TILE], const pair *right, i64 depth, float *out) {
    __m512 sums[TILE][4];
    product(n, left, 1, right, PANEL, depth, sums);
#pragma GCC unroll 4
    for (int i = 0; i < TILE; i++)
#pragma GCC unroll 4
        for (int c = 0; c < n; c++) _mm512_store_ps(out + i * PANEL + c * LANES, sums[i][c]);
}

/* out (TILE rows, PANEL apart) = rows times a panel's first n registers of lanes. */
static void multiply(const bf16 *const row[TILE], const pair *right, i64 depth, i64 n, float *out) {
    const pair *left[TILE];
    for (int i = 0; i < TILE; i++) left[i] = (const pair *)row[i];
    switch (n) { /* the number of registers must be known when this is compiled */
    case 1: multiply_n(1, left, right, depth, out); break;
    case 2: multiply_n(2, left, right, depth, out); break;
    case 3: multiply_n(3, left, right, depth, out); break;
    default: multiply_n(4, left, right, depth, out);
    }
}

INLINE void add_n(int n, const pair *const left[TILE], i64 step, const pair *right, i64 width, i64 depth,
                  float *const to[TILE], i64 from, const float *factor) {
    __m512 sums[TILE][4];
    product(n, left, step, right + from, width, depth, sums);
#pragma GCC unroll 4
    for (int i = 0; i < TILE; i++)
#pragma GCC unroll 4
        for (int c = 0; c < n; c++) {
            float *at = to[i] + from + c * LANES;
            __m512 old = _mm512_loadu_ps(at);
            if (factor) old = _mm512_mul_ps(old, _mm512_set1_ps(factor[i]));
            _mm512_storeu_ps(at, _mm512_add_ps(old, sums[i][c]));
        }
}

/* to[i] = factor[i] to[i] + left[i] right, TILE rows of d numbers (a multiple of 32). */
INLINE void add_product(const pair *const left[TILE], i64 step, const pair *right, i64 d, i64 depth,
                        float *const to[TILE], const float *factor) {
    i64 c = 0;
    for (; c + PANEL <= d; c += PANEL) add_n(4, left, step, right, d, depth, to, c, factor);
    if (c < d) add_n(2, left, step, right, d, depth, to, c, factor);
}

/* The same for a left factor that lies as a right one does (lines of PANEL): TILE neighbours of its lanes. */
static void add_from_lanes(const pair *left, const pair *right, i64 d, i64 depth, float *to, const float *factor) {
    const pair *row[TILE] = {left, left + 1, left + 2, left + 3};
    float *at[TILE] = {to, to + d, to + 2 * d, to + 3 * d};
    add_product(row, PANEL, right, d, depth, at, factor);
}

/* The same for a left factor in rows `stride` apart. */
static void add_from_rows(const bf16 *left, i64 stride, const pair *right, i64 d, i64 depth, float *const to[TILE]) {
    const pair *row[TILE];
    for (int i = 0; i < TILE; i++) row[i] = (const pair *)(left + i * stride);
    add_product(row, 1, right, d, depth, to, NULL);
}

/* Pairs j .. j + 16 of 16 rows to 16 lines of lanes, PANEL apart. */
static void transpose(const bf16 *const row[LANES], i64 j, pair *out) {
    __m512i a[LANES], b[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) a[i] = _mm512_loadu_si512((const pair *)row[i] + j);
#pragma GCC unroll 8
    for (int i = 0; i < LANES; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < LANES; i += 4) {
        a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
        a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
        a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
    /* a[4 g + c] now has columns c, c + 4, c + 8, c + 12 of rows 4 g .. 4 g + 3 in its quarters */
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        __m512i even = _mm512_shuffle_i32x4(a[c], a[4 + c], 0x88), odd = _mm512_shuffle_i32x4(a[c], a[4 + c], 0xdd);
        __m512i even_high = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0x88);
        __m512i odd_high = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0xdd);
        _mm512_store_si512(out + c * PANEL, _mm512_shuffle_i32x4(even, even_high, 0x88));
        _mm512_store_si512(out + (c + 8) * PANEL, _mm512_shuffle_i32x4(even, even_high, 0xdd));
        _mm512_store_si512(out + (c + 4) * PANEL, _mm512_shuffle_i32x4(odd, odd_high, 0x88));
        _mm512_store_si512(out + (c + 12) * PANEL, _mm512_shuffle_i32x4(odd, odd_high, 0xdd));
    }
}

/* Rows to lanes, for sums over d: a panel after another, each [d / 2][PANEL] pairs. */
static void as_lanes(const bf16 *const *row, i64 rows, i64 d, pair *out) {
    for (i64 r = 0; r < rows; r += LANES)
        for (i64 j = 0; j < d / 2; j += LANES)
            transpose(row + r, j, out + (r / PANEL * d / 2 + j) * PANEL + r % PANEL);
}

/* Rows to pairs of rows, for sums over the rows: [rows / 2][d] pairs. */
static void as_pairs(const bf16 *const *row, i64 rows, i64 d, pair *out) {
    for (i64 r = 0; r < rows; r += 2)
        for (i64 c = 0; c < d; c += LANES) {
            __m256i a = _mm256_loadu_si256((const __m256i *)(row[r] + c));
            __m256i b = _mm256_loadu_si256((const __m256i *)(row[r + 1] + c));
            __m512i ab = _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
            _mm512_store_si512(out + r / 2 * d + c, interleaved(ab));
        }
}

/* d numbers times a factor, rounded. */
static void write_row(const float *x, float factor, i64 d, bf16 *out) {
    __m512 f = _mm512_set1_ps(factor);
    for (i64 c = 0; c < d; c += 2 * LANES) {
        __m512 a = _mm512_mul_ps(_mm512_load_ps(x + c), f), b = _mm512_mul_ps(_mm512_load_ps(x + c + LANES), f);
        _mm512_storeu_si512(out + c, rounded(a, b));
    }
}
