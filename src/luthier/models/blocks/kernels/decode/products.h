/* Tokens times the rows of a matrix that lies as torch holds it, [outputs][inputs]: for decode.c.
 *
 * One number of the product is a sum along the inputs in so many lanes, then over the lanes: in that order whatever the
 * tile it is computed in. Several tokens and outputs at a time only share what they load.
 */

enum { FP32, BF16, INT8, ROUNDED, BOTH_BF16 };
/* How a matrix lies. ROUNDED: fp32 that counts as the nearest bf16; BOTH_BF16: bf16, and so do the tokens. */

/* Rows of weights, `step` bytes apart. */
typedef struct {
    const char *at;
    i64 step, kind, in;
} rows;

INLINE i64 width_of(i64 kind) { return kind == BF16 || kind == BOTH_BF16 ? 2 : kind == INT8 ? 1 : 4; }

/* What a row has from k on: LANES numbers, or as many pairs. */
INLINE vf weight(int kind, const char *row, i64 k, i64 in) {
#if PAIRS
    if (kind == BOTH_BF16) return (vf)pairs(row, k, in);
#endif
    (void)in;
    return kind == BF16   ? from_bf16((const bf16 *)row + k)
           : kind == INT8 ? from_int8((const int8_t *)row + k)
                          : load((const float *)row + k);
}
INLINE vf token(int kind, const char *x, i64 k, i64 in) { return weight(kind == BOTH_BF16 ? kind : FP32, x, k, in); }
INLINE vf added(int kind, vf a, vf b, vf sum) {
#if PAIRS
    if (kind == BOTH_BF16) return add_pairs(sum, (vu)a, (vu)b);
#endif
    (void)kind;
    return madd(a, b, sum);
}

/* M tokens by N outputs, which are rows first, first + apart, ... : each of them goes on where it left off with the next
 * first, so that memory is read in few long streams. */
INLINE void tile(int M, int N, int kind, const char *const *x, const rows *w, i64 first, i64 apart, float *const *y) {
    vf sums[4][8];
    const char *row[8];
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) row[n] = w->at + (first + n * apart) * w->step;
#pragma GCC unroll 4
    for (int m = 0; m < M; m++)
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) sums[m][n] = (vf){0};
    const i64 in = w->in;
    for (i64 k = 0; k < in; k += kind == BOTH_BF16 ? 2 * LANES : LANES) {
        vf kept[4];
        if (M >= N) { /* the fewer stay in registers, the others come by */
#pragma GCC unroll 8
            for (int n = 0; n < N; n++) kept[n] = held(weight(kind, row[n], k, in));
#pragma GCC unroll 4
            for (int m = 0; m < M; m++) {
                vf a = held(token(kind, x[m], k, in));
#pragma GCC unroll 8
                for (int n = 0; n < N; n++) sums[m][n] = added(kind, a, kept[n], sums[m][n]);
            }
        } else {
#pragma GCC unroll 4
            for (int m = 0; m < M; m++) kept[m] = held(token(kind, x[m], k, in));
#pragma GCC unroll 8
            for (int n = 0; n < N; n++) {
                vf b = held(weight(kind, row[n], k, in));
#pragma GCC unroll 4
                for (int m = 0; m < M; m++) sums[m][n] = added(kind, kept[m], b, sums[m][n]);
            }
        }
    }
#pragma GCC unroll 4
    for (int m = 0; m < M; m++)
#pragma GCC unroll 2
        for (int n = 0; n < N; n += 4) {
            float out[4];
            sum4(sums[m][n], sums[m][n + 1 < N ? n + 1 : n], sums[m][n + 2 < N ? n + 2 : n],
                 sums[m][n + 3 < N ? n + 3 : n], out);
            for (int i = 0; i < (N - n < 4 ? N - n : 4); i++) y[m][first + (n + i) * apart] = out[i];
        }
}

#if LANES == 16 || defined(__aarch64__) /* thirty-two registers */
enum { N1 = 8, N2 = 8, N3 = 8, N4 = 6 };
#else
enum { N1 = 8, N2 = 6, N3 = 4, N4 = 3 };
#endif

INLINE void strip_n(int M, int N, int kind, const char *const *x, const rows *w, i64 count, float *const *y) {
    i64 each = count / N, o = 0;
    for (; o < each; o++) tile(M, N, kind, x, w, o, each, y);
    for (o = each * N; o < count; o++) tile(M, 1, kind, x, w, o, 1, y);
}

/* All outputs of up to four tokens. */
INLINE void strip(int kind, int tokens, const char *const *x, const rows *w, i64 count, float *const *y) {
    switch (tokens) {
    case 1: strip_n(1, N1, kind, x, w, count, y); break;
    case 2: strip_n(2, N2, kind, x, w, count, y); break;
    case 3: strip_n(3, N3, kind, x, w, count, y); break;
    default: strip_n(4, N4, kind, x, w, count, y);
    }
}
static void strip_fp32(int tokens, const char *const *x, const rows *w, i64 count, float *const *y) {
    strip(FP32, tokens, x, w, count, y);
}
static void strip_bf16(int tokens, const char *const *x, const rows *w, i64 count, float *const *y) {
    strip(BF16, tokens, x, w, count, y);
}
#if PAIRS
static void strip_pairs(int tokens, const char *const *x, const rows *w, i64 count, float *const *y) {
    strip(BOTH_BF16, tokens, x, w, count, y);
}
#else
#define strip_pairs strip_bf16
#endif
static void strip_int8(int tokens, const char *const *x, const rows *w, i64 count, float *const *y) {
    strip(INT8, tokens, x, w, count, y);
}

/* Where tokens lie: row list[i], or i without a list. `half`: the same in bf16, where that is kept. */
typedef struct {
    const float *at;
    const bf16 *half;
    i64 step;
    const int32_t *list;
} tokens;

/* y (count numbers a token, y_step apart) = tokens times `count` rows. */
static void product(const tokens *x, i64 n, const rows *w, i64 count, float *y, i64 y_step) {
    int both = PAIRS && w->kind == BF16 && x->half;
    for (i64 t = 0; t < n; t += 4) {
        int m = (int)least(4, n - t);
        const char *from[4];
        float *to[4];
        for (int i = 0; i < m; i++) {
            i64 place = (x->list ? x->list[t + i] : t + i) * x->step;
            from[i] = both ? (const char *)(x->half + place) : (const char *)(x->at + place);
            to[i] = y + (t + i) * y_step;
        }
        if (both) strip_pairs(m, from, w, count, to);
        else if (w->kind == BF16) strip_bf16(m, from, w, count, to);
        else if (w->kind == INT8) strip_int8(m, from, w, count, to);
        else strip_fp32(m, from, w, count, to);
    }
}

/* n numbers that bf16 holds, kept in bf16, too. */
INLINE void keep_half(const float *x, i64 n, bf16 *to) {
    for (i64 k = 0; k < n; k += LANES) store_half(to + k, load(x + k));
}

/* `count` rows of `in` numbers (a multiple of LANES) as fp32. */
static void spread(const char *at, i64 kind, i64 in, i64 count, float *out) {
    for (i64 k = 0; k < count * in; k += LANES) {
        vf x = kind == BF16 ? from_bf16((const bf16 *)at + k) : load((const float *)at + k);
        store(out + k, kind == ROUNDED ? to_bf16(x) : x);
    }
}

/* Outputs of a piece of work: whole tiles of every shape, whole vectors. */
#define CHUNK 48

/* Four numbers as fp32. */
INLINE void four(const char *at, i64 kind, i64 from, float *out) {
    for (int i = 0; i < 4; i++)
        out[i] = kind == BF16 ? one_bf16(((const bf16 *)at)[from + i]) : ((const float *)at)[from + i];
}

/* `count` rows (up to CHUNK) of `rank` numbers as columns: [rank][CHUNK] in fp32, zeros behind. */
static void across(const char *at, i64 kind, i64 rank, i64 count, float *out) {
    i64 tiles = count / 4 * 4, whole = rank / 4 * 4;
    if (count < CHUNK) memset(out, 0, rank * CHUNK * sizeof(float));
    for (i64 o = 0; o < tiles; o += 4)
        for (i64 r = 0; r < whole; r += 4) {
            float x[4][4] __attribute__((aligned(16)));
            for (int i = 0; i < 4; i++) four(at, kind, (o + i) * rank + r, x[i]);
#if defined(__x86_64__)
            __m128 a = _mm_load_ps(x[0]), b = _mm_load_ps(x[1]), c = _mm_load_ps(x[2]), d = _mm_load_ps(x[3]);
            _MM_TRANSPOSE4_PS(a, b, c, d);
            _mm_storeu_ps(out + r * CHUNK + o, a), _mm_storeu_ps(out + (r + 1) * CHUNK + o, b);
            _mm_storeu_ps(out + (r + 2) * CHUNK + o, c), _mm_storeu_ps(out + (r + 3) * CHUNK + o, d);
#else
            for (int j = 0; j < 4; j++)
                for (int i = 0; i < 4; i++) out[(r + j) * CHUNK + o + i] = x[i][j];
#endif
        }
    for (i64 o = 0; o < count; o++)
        for (i64 r = o < tiles ? whole : 0; r < rank; r++) {
            i64 from = o * rank + r;
            out[r * CHUNK + o] = kind == BF16 ? one_bf16(((const bf16 *)at)[from]) : ((const float *)at)[from];
        }
    if (kind == ROUNDED)
        for (i64 k = 0; k < rank * CHUNK; k += LANES) store(out + k, to_bf16(load(out + k)));
}

/* The first `count` of each of `rank` lines, `step` numbers apart, as fp32 lines of CHUNK; zeros behind. */
static void cut_lines(const char *at, i64 kind, i64 step, i64 rank, i64 count, float *out) {
    memset(out, 0, rank * CHUNK * sizeof(float));
    for (i64 r = 0; r < rank; r++, at += step * width_of(kind))
        for (i64 o = 0; o < count; o++)
            out[r * CHUNK + o] = kind == BF16 ? one_bf16(((const bf16 *)at)[o]) : ((const float *)at)[o];
}

/* y += scale z times `rank` lines of CHUNK, `step` numbers apart. */
INLINE void add_ranks(int half, int kind, const float *z, i64 rank, const char *lines, i64 step, float scale, float *y) {
    vf s[CHUNK / LANES];
#pragma GCC unroll 12
    for (int c = 0; c < CHUNK / LANES; c++) s[c] = (vf){0};
    for (i64 r = 0; r < rank; r++, lines += step * width_of(kind)) {
        vf a = held(splat(z[r]));
#pragma GCC unroll 12
        for (int c = 0; c < CHUNK / LANES; c++) s[c] = madd(a, weight(kind, lines, c * LANES, 0), s[c]);
    }
#pragma GCC unroll 12
    for (int c = 0; c < CHUNK / LANES; c++)
        store(y + c * LANES, rounded(half, madd(splat(scale), s[c], load(y + c * LANES))));
}
