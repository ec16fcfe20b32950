/* Attention over keys and values in pages of sixteen tokens: for decode.c.
 *
 * In a page the keys of one head lie by dimension, [d][16], and its values by token, [16][d]; in bf16 by pairs of what is
 * summed over, [d/2][16][2] and [8][d][2]. So lanes are tokens for the scores and dimensions for the output. A query sees
 * its own keys in the order of the sequence, whatever else is computed beside it.
 */
#define PAGE 16
/* Heads of one token that share what they load. */
#define HEADS 4
#define SLICES (PAGE / LANES)
/* Pages by which memory is called for before it is read: pages lie anywhere, and nobody else can tell which is next. */
#define AHEAD 2

/* One key and value of one head into its slot. */
INLINE void keep(int half, const float *k, const float *v, i64 d, i64 slot, char *keys, char *values) {
    for (i64 i = 0; i < d; i++) {
        if (half) {
            ((bf16 *)keys)[i / 2 * 2 * PAGE + 2 * slot + i % 2] = half_of(k[i]);
            ((bf16 *)values)[slot / 2 * 2 * d + 2 * i + slot % 2] = half_of(v[i]);
        } else {
            ((float *)keys)[i * PAGE + slot] = k[i];
            ((float *)values)[slot * d + i] = v[i];
        }
    }
}

/* Sums at a time: enough that none waits for itself, and that the registers hold what they are made of, too. */
#if LANES == 16 || defined(__aarch64__)
#define SUMS 16
#else
#define SUMS 8
#endif

/* Scores of n queries with the keys of a page; those of a page to come are called for meanwhile. Where there is room,
 * even and odd dimensions have sums of their own: one alone would wait for itself. */
INLINE void scores_n(int half, int n, const float *const *q, const char *keys, const char *coming, i64 d, float scale,
                     float *const *out) {
    vf s[2][HEADS][SLICES];
    const int apart = 2 * n * SLICES <= SUMS;
#pragma GCC unroll 2
    for (int o = 0; o <= apart; o++)
#pragma GCC unroll 4
        for (int i = 0; i < n; i++)
#pragma GCC unroll 4
            for (int c = 0; c < SLICES; c++) s[o][i][c] = (vf){0};
    for (i64 j = 0; j < d; j += 2) {
        const float *line = (const float *)keys + (half ? j / 2 : j) * PAGE;
        __builtin_prefetch(coming + (half ? j / 2 : j) * LINE);
        if (!half) __builtin_prefetch(coming + (j + 1) * LINE);
#pragma GCC unroll 2
        for (int o = 0; o < 2; o++) {
            vf k[SLICES];
#pragma GCC unroll 4
            for (int c = 0; c < SLICES; c++) {
                vf x = load(line + (half ? 0 : o * PAGE) + c * LANES);
                k[c] = held(!half ? x : o ? upper((vu)x) : lower((vu)x));
            }
#pragma GCC unroll 4
            for (int i = 0; i < n; i++) {
                vf a = held(splat(q[i][j + o]));
#pragma GCC unroll 4
                for (int c = 0; c < SLICES; c++) s[apart ? o : 0][i][c] = madd(a, k[c], s[apart ? o : 0][i][c]);
            }
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < n; i++)
#pragma GCC unroll 4
        for (int c = 0; c < SLICES; c++) {
            vf whole = apart ? s[0][i][c] + s[1][i][c] : s[0][i][c];
            store(out[i] + c * LANES, whole * scale);
        }
}

/* Scores become e^(score - largest); returns their sum. Keys [low, high) count, from the beginning of a page. */
INLINE float softened(float *s, i64 low, i64 high) {
    i64 end = up(high, PAGE);
    for (i64 j = 0; j < low; j++) s[j] = -INFINITY;
    for (i64 j = high; j < end; j++) s[j] = -INFINITY;
    vf top = load(s), total = {0};
    for (i64 j = LANES; j < end; j += LANES) {
        vf x = load(s + j);
        top = pick(x > top, x, top);
    }
    vf most_ = splat(largest(top));
    for (i64 j = 0; j < end; j += LANES) {
        vf e = exp_(load(s + j) - most_);
        store(s + j, e);
        total += e;
    }
    return sum(total);
}

/* s += p times the value of one token, of which W vectors lie from v on; in bf16 as one half of pairs. */
INLINE void add_value(int half, int odd, int n, int W, const float *const *p, i64 j, const float *v, vf s[HEADS][16]) {
    vf a[HEADS];
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) a[i] = held(splat(p[i][j]));
#pragma GCC unroll 16
    for (int c = 0; c < W; c++) {
        vf x = load(v + c * LANES);
        x = held(!half ? x : odd ? upper((vu)x) : lower((vu)x));
#pragma GCC unroll 4
        for (int i = 0; i < n; i++) s[i][c] = madd(a[i], x, s[i][c]);
    }
}

/* W vectors of dimensions, from the dimension `from` on, of n heads' outputs: the sums of p times value over keys
 * [low, high). */
INLINE void mixed_n(int half, int n, int W, const float *const *p, char *const *page, i64 offset, i64 d, i64 from,
                    i64 low, i64 high, const float *total, float *const *out) {
    vf s[HEADS][16];
#pragma GCC unroll 4
    for (int i = 0; i < n; i++)
#pragma GCC unroll 16
        for (int c = 0; c < W; c++) s[i][c] = (vf){0};
    const i64 each = half ? 2 : 1; /* tokens of a row of d words */
    for (i64 start = low / PAGE * PAGE; start < high; start += PAGE) {
        const float *v = (const float *)(page[start / PAGE] + offset) + from;
        const float *coming = (const float *)(page[least(start / PAGE + AHEAD, (high - 1) / PAGE)] + offset) + from;
        i64 j = most(low - start, 0), end = least(high - start, PAGE);
        if (half && j % 2 && j < end) add_value(half, 1, n, W, p, start + j, v + j / 2 * d, s), j++;
        for (; j + each <= end; j += each) {
            for (int c = 0; c < W * LANES; c += LINE / 4) __builtin_prefetch(coming + j / each * d + c);
            add_value(half, 0, n, W, p, start + j, v + j / each * d, s);
            if (half) add_value(half, 1, n, W, p, start + j + 1, v + j / each * d, s);
        }
        if (j < end) add_value(half, 0, n, W, p, start + j, v + j / each * d, s);
    }
#pragma GCC unroll 4
    for (int i = 0; i < n; i++)
#pragma GCC unroll 16
        for (int c = 0; c < W; c++) store(out[i] + from + c * LANES, rounded(half, s[i][c] / splat(total[i])));
}

/* A token's queries of up to HEADS heads over the same keys. `page`: those of its sequence; `keys` and `values`: where
 * in a page this layer and head lie; `scratch`: `room` numbers for each of the heads. */
INLINE void attend_n(int half, int n, const float *q, i64 d, float scale, char *const *page, i64 keys, i64 values,
                     i64 low, i64 high, float *scratch, i64 room, float *out) {
    const float *query[HEADS];
    float *s[HEADS], *to[HEADS], *at[HEADS], total[HEADS];
    i64 first = low / PAGE * PAGE;
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) query[i] = q + i * d, s[i] = scratch + i * room, to[i] = out + i * d;
    for (i64 start = first; start < high; start += PAGE) {
#pragma GCC unroll 4
        for (int i = 0; i < n; i++) at[i] = s[i] + (start - first);
        const char *coming = page[least(start / PAGE + AHEAD, (high - 1) / PAGE)] + keys;
        scores_n(half, n, query, page[start / PAGE] + keys, coming, d, scale, at);
    }
    for (int i = 0; i < n; i++) total[i] = softened(s[i], low - first, high - first);
    const float *const *p = (const float *const *)s;
    page += first / PAGE, low -= first, high -= first;
    for (i64 from = 0; from < d;) {
        if (n * 64 / LANES <= SUMS && from + 64 <= d) {
            mixed_n(half, n, 64 / LANES, p, page, values, d, from, low, high, total, to);
            from += 64;
        } else if (n * 32 / LANES <= SUMS && from + 32 <= d) {
            mixed_n(half, n, 32 / LANES, p, page, values, d, from, low, high, total, to);
            from += 32;
        } else {
            mixed_n(half, n, 16 / LANES, p, page, values, d, from, low, high, total, to);
            from += 16;
        }
    }
}

INLINE void attend(int half, i64 n, const float *q, i64 d, float scale, char *const *page, i64 keys, i64 values, i64 low,
                   i64 high, float *scratch, i64 room, float *out) {
    switch (n) {
    case 1: attend_n(half, 1, q, d, scale, page, keys, values, low, high, scratch, room, out); break;
    case 2: attend_n(half, 2, q, d, scale, page, keys, values, low, high, scratch, room, out); break;
    case 3: attend_n(half, 3, q, d, scale, page, keys, values, low, high, scratch, room, out); break;
    default: attend_n(half, 4, q, d, scale, page, keys, values, low, high, scratch, room, out);
    }
}
