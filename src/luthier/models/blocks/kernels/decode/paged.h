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

/* Scores of n queries with the keys of a page; those of the page to come are called for meanwhile. */
INLINE void scores_n(int half, int n, const float *const *q, const char *keys, const char *coming, i64 d, float scale,
                     float *const *out) {
    vf s[HEADS][SLICES];
#pragma GCC unroll 4
    for (int i = 0; i < n; i++)
#pragma GCC unroll 4
        for (int c = 0; c < SLICES; c++) s[i][c] = (vf){0};
    const i64 each = half ? 2 : 1; /* dimensions of a line: PAGE words */
    for (i64 j = 0; j < d; j += each, coming += LINE) {
        __builtin_prefetch(coming);
        vf line[SLICES];
#pragma GCC unroll 4
        for (int c = 0; c < SLICES; c++) line[c] = held(load((const float *)keys + j / each * PAGE + c * LANES));
#pragma GCC unroll 2
        for (int o = 0; o < each; o++) {
            vf k[SLICES];
#pragma GCC unroll 4
            for (int c = 0; c < SLICES; c++) k[c] = held(!half ? line[c] : o ? upper((vu)line[c]) : lower((vu)line[c]));
#pragma GCC unroll 4
            for (int i = 0; i < n; i++) {
                vf a = held(splat(q[i][j + o]));
#pragma GCC unroll 4
                for (int c = 0; c < SLICES; c++) s[i][c] = madd(a, k[c], s[i][c]);
            }
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < n; i++)
#pragma GCC unroll 4
        for (int c = 0; c < SLICES; c++) store(out[i] + c * LANES, s[i][c] * scale);
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

/* W vectors of dimensions of n heads' outputs: the sums of p times value over keys [low, high). */
INLINE void mixed_n(int half, int n, int W, const float *const *p, char *const *page, i64 offset, i64 d, i64 from,
                    i64 low, i64 high, const float *total, float *const *out) {
    vf s[HEADS][32 / LANES];
#pragma GCC unroll 4
    for (int i = 0; i < n; i++)
#pragma GCC unroll 8
        for (int c = 0; c < W; c++) s[i][c] = (vf){0};
    const i64 each = half ? 2 : 1; /* tokens of a row of d words */
    for (i64 start = low / PAGE * PAGE; start < high; start += PAGE) {
        const float *v = (const float *)(page[start / PAGE] + offset) + from;
        const float *coming = (const float *)(page[(start + PAGE < high ? start + PAGE : start) / PAGE] + offset) + from;
        i64 j = most(low - start, 0), end = least(high - start, PAGE);
        while (j < end) {
            const float *row = v + j / each * d;
            for (int c = 0; c < W * LANES; c += LINE / 4) __builtin_prefetch(coming + j / each * d + c);
            if (half && j % 2 == 0 && j + 1 < end) {
#pragma GCC unroll 8
                for (int c = 0; c < W; c++) {
                    vu both = (vu)load(row + c * LANES);
                    vf b[2] = {held(lower(both)), held(upper(both))};
#pragma GCC unroll 4
                    for (int i = 0; i < n; i++)
#pragma GCC unroll 2
                        for (int o = 0; o < 2; o++) s[i][c] = madd(splat(p[i][start + j + o]), b[o], s[i][c]);
                }
                j += 2;
                continue;
            }
#pragma GCC unroll 8
            for (int c = 0; c < W; c++) { /* one token; in bf16 half a pair, of which the other half may be anything */
                vf b = load(row + c * LANES);
                b = held(!half ? b : j % 2 ? upper((vu)b) : lower((vu)b));
#pragma GCC unroll 4
                for (int i = 0; i < n; i++) s[i][c] = madd(splat(p[i][start + j]), b, s[i][c]);
            }
            j++;
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < n; i++)
#pragma GCC unroll 8
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
        const char *coming = start + PAGE < high ? page[start / PAGE + 1] + keys : page[first / PAGE] + values;
        scores_n(half, n, query, page[start / PAGE] + keys, coming, d, scale, at);
    }
    for (int i = 0; i < n; i++) total[i] = softened(s[i], low - first, high - first);
    for (i64 from = 0; from < d;) {
        if (n < HEADS && from + 32 <= d) {
            mixed_n(half, n, 32 / LANES, (const float *const *)s, page + first / PAGE, values, d, from, low - first,
                    high - first, total, to);
            from += 32;
        } else {
            mixed_n(half, n, 16 / LANES, (const float *const *)s, page + first / PAGE, values, d, from, low - first,
                    high - first, total, to);
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
