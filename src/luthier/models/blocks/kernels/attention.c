/* Attention over packed rows for CPUs with AVX512-BF16: scores never reach memory. Those of a few keys and queries are
 * made, used and forgotten in the cache, forward and, from each query's log-sum-exp, once more backward (the tiling of
 * FlashAttention, Dao et al. 2022).
 *
 * A task is one piece (a run of queries and the keys that the last of them sees) and one key head. Its rows are its
 * tokens' queries of that head's group, by token and then by head, so that causality stays a staircase: row r sees keys
 * up to last[r], which never falls. Rows are the lanes of the scores, a panel at a time; keys come in tiles. What lies
 * above the staircase is left out by tile and panel, and hidden inside those that it cuts.
 *
 * Results depend on the number of `parts` (threads) but never on their timing: a task's output and gradient of queries
 * are its own, and gradients of keys and values are summed in an order that the parts fix.
 */
#ifndef __AVX512BF16__
int has_attention(void) { return 0; }
#else
int has_attention(void) { return 1; }

#include "tiles.h"
#include <math.h>
#include <omp.h>
#include <string.h>

/* Keys that are in the cache at once: more make fewer passes over the sums, fewer leave room for them. */
#define KEYS 128
#define KEYS_BACKWARD 64
#define LONGEST_HEAD 256
/* Score of a key that is not seen. Finite, so that differences stay numbers, and a power of two, so that the
 * differences of rows that have seen nothing yet are exactly 0; what such rows sum is wiped out by their first key. */
#define HIDDEN -0x1p100f
#define LOG2_E 1.44269504f

/* Strides are those between tokens; heads lie side by side. `scratch` is what a thread needs, in bytes. */
typedef struct {
    i64 pieces, tokens, heads, group, d, window, q_stride, k_stride, v_stride, parts, scratch;
} shape;

/* Queries [start, start + length) of the micro-batch; they see `prefix` keys and themselves, at place[first ..]. */
typedef struct {
    i64 start, length, prefix, first;
} piece;

/* `padded` is `rows` in whole registers. */
typedef struct {
    i64 start, head, rows, padded, keys;
    const i64 *place;
} task;

/* What a thread works in. `top` and `total` are a row's running maximum and sum; backward, its lse and delta. */
typedef struct {
    char *block;
    i64 used;
    const bf16 **q, **g, **k, **v;
    pair *q_lanes, *g_lanes, *q_pairs, *g_pairs, *key_pairs, *score_pairs;
    float *sum, *scores, *products, *top, *total, *rescale;
    bf16 *p, *ds;
    int32_t *last;
} scratch;

static const bf16 ZERO[LONGEST_HEAD];

static void *take(scratch *w, i64 bytes) {
    void *here = w->block ? w->block + w->used : NULL;
    w->used += up(bytes, 64);
    return here;
}

/* Cut a thread's memory up for the longest piece; without a block, only count it. */
static scratch prepare(const shape *s, const piece *all, char *block) {
    scratch w = {.block = block};
    i64 d = s->d, rows = 0;
    for (i64 i = 0; i < s->pieces; i++) rows = most(rows, up(all[i].length * s->group, PANEL));
    i64 packed = rows * d / 2 * sizeof(pair), numbers = rows * sizeof(float), pointers = rows * sizeof(bf16 *);
    w.q = take(&w, pointers), w.g = take(&w, pointers);
    w.k = take(&w, KEYS * sizeof(bf16 *)), w.v = take(&w, KEYS * sizeof(bf16 *));
    w.last = take(&w, numbers), w.top = take(&w, numbers), w.total = take(&w, numbers);
    w.rescale = take(&w, PANEL * sizeof(float)), w.sum = take(&w, numbers * d);
    w.scores = take(&w, KEYS * PANEL * sizeof(float)), w.products = take(&w, TILE * PANEL * sizeof(float));
    w.key_pairs = take(&w, KEYS / 2 * d * sizeof(pair)), w.score_pairs = take(&w, KEYS / 2 * PANEL * sizeof(pair));
    w.q_lanes = take(&w, packed), w.g_lanes = take(&w, packed);
    w.q_pairs = take(&w, packed), w.g_pairs = take(&w, packed);
    w.p = take(&w, KEYS_BACKWARD * rows * sizeof(bf16)), w.ds = take(&w, KEYS_BACKWARD * rows * sizeof(bf16));
    return w;
}

/* Tasks are numbered by head, then by piece. */
static task find_task(const shape *s, const piece *all, const i64 *place, i64 number, scratch *w) {
    const piece *p = all + number % s->pieces;
    i64 rows = p->length * s->group;
    task t = {p->start, number / s->pieces, rows, up(rows, LANES), p->prefix + p->length, place + p->first};
    for (i64 r = 0; r < t.padded; r++) w->last[r] = (int32_t)(p->prefix + least(r / s->group, p->length - 1));
    return t;
}

/* Where row r begins in a tensor of all query heads whose tokens are `stride` apart. */
INLINE i64 row_at(const shape *s, const task *t, i64 r, i64 stride) {
    return (t->start + r / s->group) * stride + (t->head * s->group + r % s->group) * s->d;
}

static void find_rows(const shape *s, const task *t, const bf16 *x, i64 stride, const bf16 **row) {
    for (i64 r = 0; r < t->padded; r++) row[r] = r < t->rows ? x + row_at(s, t, r, stride) : ZERO;
}

/* The next `count` keys or values; padding is zero. */
static void find_keys(const shape *s, const task *t, const bf16 *x, i64 stride, i64 first, i64 count, const bf16 **row) {
    for (i64 k = 0; k < count; k++)
        row[k] = first + k < t->keys ? x + t->place[first + k] * stride + t->head * s->d : ZERO;
}

/* Of keys first .. first + count, those in reach of `rows` rows in whole tiles: [*from, *to) counted from first. */
INLINE void reach(const shape *s, const int32_t *last, i64 rows, i64 first, i64 count, i64 *from, i64 *to) {
    *to = least(count, up(last[rows - 1] + 1 - first, TILE));
    *from = s->window ? most(0, (last[0] + 1 - s->window - first) / TILE * TILE) : 0;
}

/* Hide what single rows do not see among `count` keys from `first` on. */
static void hide(const shape *s, const int32_t *last, i64 rows, i64 first, i64 count, float *x) {
    if (first + count - 1 <= last[0] && !(s->window && first <= last[rows - 1] - s->window)) return;
    for (i64 k = 0; k < count; k++)
        for (i64 c = 0; c < rows; c += LANES) {
            __m512i until = _mm512_load_si512(last + c), key = _mm512_set1_epi32((int)(first + k));
            __mmask16 hidden = _mm512_cmpgt_epi32_mask(key, until);
            if (s->window)
                hidden |= _mm512_cmple_epi32_mask(key, _mm512_sub_epi32(until, _mm512_set1_epi32((int)s->window)));
            _mm512_mask_store_ps(x + k * PANEL + c, hidden, _mm512_set1_ps(HIDDEN));
        }
}

/* Take `count` keys' scores into the running softmax of 16 rows; 2^(unit (score - top)) goes to p. */
static void online_softmax(const float *x, i64 count, float unit, float *top, float *total, float *rescale, pair *p) {
    __m512 old = _mm512_load_ps(top), high = old, sum = _mm512_setzero_ps(), u = _mm512_set1_ps(unit);
    for (i64 k = 0; k < count; k++) high = _mm512_max_ps(high, _mm512_load_ps(x + k * PANEL));
    __m512 shift = _mm512_mul_ps(high, u), fade = exp2_(_mm512_fmsub_ps(old, u, shift));
    for (i64 k = 0; k < count; k += 2) {
        __m512 a = exp2_(_mm512_fmsub_ps(_mm512_load_ps(x + k * PANEL), u, shift));
        __m512 b = exp2_(_mm512_fmsub_ps(_mm512_load_ps(x + (k + 1) * PANEL), u, shift));
        sum = _mm512_add_ps(sum, _mm512_add_ps(a, b));
        _mm512_store_si512(p + k / 2 * PANEL, interleaved(rounded(a, b)));
    }
    _mm512_store_ps(top, high);
    _mm512_store_ps(rescale, fade);
    _mm512_store_ps(total, _mm512_fmadd_ps(_mm512_load_ps(total), fade, sum));
}

static void forward_panel(const shape *s, const task *t, scratch *w, i64 row, i64 first, i64 count, float unit) {
    i64 d = s->d, rows = least(PANEL, t->padded - row), from, to;
    reach(s, w->last + row, rows, first, count, &from, &to);
    if (from >= to) return;
    for (i64 k = from; k < to; k += TILE)
        multiply(w->k + k, w->q_lanes + row * d / 2, d / 2, rows / LANES, w->scores + k * PANEL);
    float *x = w->scores + from * PANEL;
    hide(s, w->last + row, rows, first + from, to - from, x);
    for (i64 c = 0; c < rows; c += LANES)
        online_softmax(x + c, to - from, unit, w->top + row + c, w->total + row + c, w->rescale + c, w->score_pairs + c);
    const pair *values = w->key_pairs + from / 2 * d;
    for (i64 r = 0; r < rows; r += TILE)
        add_from_lanes(w->score_pairs + r, values, d, (to - from) / 2, w->sum + (row + r) * d, w->rescale + r);
}

static void forward_task(const shape *s, const task *t, const bf16 *const in[3], bf16 *out, float *lse, float scale,
                         scratch *w) {
    i64 d = s->d, stride = s->heads * s->group * d;
    find_rows(s, t, in[0], s->q_stride, w->q);
    as_lanes(w->q, t->padded, d, w->q_lanes);
    memset(w->sum, 0, t->padded * d * sizeof(float));
    memset(w->total, 0, t->padded * sizeof(float));
    for (i64 r = 0; r < t->padded; r++) w->top[r] = HIDDEN;
    for (i64 first = 0; first < t->keys; first += KEYS) {
        i64 count = least(KEYS, up(t->keys - first, TILE));
        find_keys(s, t, in[1], s->k_stride, first, count, w->k);
        find_keys(s, t, in[2], s->v_stride, first, count, w->v);
        as_pairs(w->v, count, d, w->key_pairs);
        for (i64 row = 0; row < t->padded; row += PANEL) forward_panel(s, t, w, row, first, count, scale * LOG2_E);
    }
    for (i64 r = 0; r < t->rows; r++) {
        i64 at = row_at(s, t, r, stride);
        write_row(w->sum + r * d, 1.0f / w->total[r], d, out + at);
        lse[at / d] = w->top[r] * scale * LOG2_E + log2f(w->total[r]);
    }
}

/* One tile's probabilities p and gradients of scores ds = p (y - delta) from its scores x and products y of values and
 * gradients; the scale that ds lacks is applied to the sums. ds goes out twice: as either factor needs it. */
static void backward_tile(const float *x, const float *y, i64 rows, float unit, const float *lse, const float *delta,
                          bf16 *p, bf16 *ds, i64 stride, pair *ds_pairs) {
    __m512 u = _mm512_set1_ps(unit);
    for (i64 c = 0; c < rows; c += LANES) {
        __m512 shift = _mm512_load_ps(lse + c), mean = _mm512_load_ps(delta + c);
#pragma GCC unroll 2
        for (i64 k = 0; k < TILE; k += 2) {
            i64 at = k * PANEL + c, to = k * stride + c;
            __m512 a = exp2_(_mm512_fmsub_ps(_mm512_load_ps(x + at), u, shift));
            __m512 b = exp2_(_mm512_fmsub_ps(_mm512_load_ps(x + at + PANEL), u, shift));
            __m512i both = rounded(a, b);
            _mm256_store_si256((__m256i *)(p + to), _mm512_castsi512_si256(both));
            _mm256_store_si256((__m256i *)(p + to + stride), _mm512_extracti64x4_epi64(both, 1));
            a = _mm512_mul_ps(a, _mm512_sub_ps(_mm512_load_ps(y + at), mean));
            b = _mm512_mul_ps(b, _mm512_sub_ps(_mm512_load_ps(y + at + PANEL), mean));
            both = rounded(a, b);
            _mm256_store_si256((__m256i *)(ds + to), _mm512_castsi512_si256(both));
            _mm256_store_si256((__m256i *)(ds + to + stride), _mm512_extracti64x4_epi64(both, 1));
            _mm512_store_si512(ds_pairs + k / 2 * PANEL + c, interleaved(both));
        }
    }
}

/* Keep a panel's p and ds for the keys' sums, and add to its queries' gradient. */
static void backward_panel(const shape *s, const task *t, scratch *w, i64 row, i64 first, i64 count, float unit) {
    i64 d = s->d, rows = least(PANEL, t->padded - row), from, to;
    reach(s, w->last + row, rows, first, count, &from, &to);
    if (from >= to) return;
    for (i64 k = from; k < to; k += TILE) {
        multiply(w->k + k, w->q_lanes + row * d / 2, d / 2, rows / LANES, w->scores);
        hide(s, w->last + row, rows, first + k, TILE, w->scores);
        multiply(w->v + k, w->g_lanes + row * d / 2, d / 2, rows / LANES, w->products);
        i64 at = k * t->padded + row;
        backward_tile(w->scores, w->products, rows, unit, w->top + row, w->total + row, w->p + at, w->ds + at, t->padded,
                      w->score_pairs + k / 2 * PANEL);
    }
    const pair *scores = w->score_pairs + from / 2 * PANEL, *keys = w->key_pairs + from / 2 * d;
    for (i64 r = 0; r < rows; r += TILE)
        add_from_lanes(scores + r, keys, d, (to - from) / 2, w->sum + (row + r) * d, NULL);
}

/* Add gradients of the tile of keys and values at k, from all panels that reach it, to their tokens' sums. */
static void backward_keys(const shape *s, const task *t, scratch *w, i64 first, i64 k, float *key_sum) {
    i64 d = s->d, begin = t->padded, end = 0, from, to;
    for (i64 row = 0; row < t->padded; row += PANEL) {
        i64 rows = least(PANEL, t->padded - row);
        reach(s, w->last + row, rows, first, k + TILE, &from, &to);
        if (from > k || to <= k) continue;
        begin = least(begin, row);
        end = row + rows;
    }
    if (begin >= end) return;
    float *key_to[TILE], *value_to[TILE];
    for (i64 i = 0; i < TILE; i++) { /* padding adds to what nobody reads */
        i64 key = first + k + i;
        key_to[i] = key < t->keys ? key_sum + t->place[key] * d : w->scores;
        value_to[i] = key < t->keys ? key_to[i] + s->tokens * d : w->scores;
    }
    i64 at = k * t->padded + begin, depth = (end - begin) / 2;
    add_from_rows(w->p + at, t->padded, w->g_pairs + begin / 2 * d, d, depth, value_to);
    add_from_rows(w->ds + at, t->padded, w->q_pairs + begin / 2 * d, d, depth, key_to);
}

/* lse and delta = sum(out * gradient) of each row; 0 for padding, whose query and gradient are 0 too. */
static void find_sums(const shape *s, const task *t, const bf16 *out, const float *lse, scratch *w) {
    for (i64 r = 0; r < t->padded; r++) {
        i64 at = row_at(s, t, r, s->heads * s->group * s->d);
        __m512 sum = _mm512_setzero_ps();
        for (i64 c = 0; r < t->rows && c < s->d; c += 2 * LANES) {
            __m512i a = _mm512_loadu_si512(out + at + c), b = _mm512_loadu_si512(w->g[r] + c);
            sum = _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
        }
        w->top[r] = r < t->rows ? lse[at / s->d] : 0;
        w->total[r] = _mm512_reduce_add_ps(sum);
    }
}

/* in: queries, keys, values, output, its gradient. */
static void backward_task(const shape *s, const task *t, const bf16 *const in[5], const float *lse, bf16 *grad_q,
                          float *key_sum, float scale, scratch *w) {
    i64 d = s->d, stride = s->heads * s->group * d;
    find_rows(s, t, in[0], s->q_stride, w->q);
    find_rows(s, t, in[4], stride, w->g);
    find_sums(s, t, in[3], lse, w);
    as_lanes(w->q, t->padded, d, w->q_lanes);
    as_lanes(w->g, t->padded, d, w->g_lanes);
    as_pairs(w->q, t->padded, d, w->q_pairs);
    as_pairs(w->g, t->padded, d, w->g_pairs);
    memset(w->sum, 0, t->padded * d * sizeof(float));
    for (i64 first = 0; first < t->keys; first += KEYS_BACKWARD) {
        i64 count = least(KEYS_BACKWARD, up(t->keys - first, TILE));
        find_keys(s, t, in[1], s->k_stride, first, count, w->k);
        find_keys(s, t, in[2], s->v_stride, first, count, w->v);
        as_pairs(w->k, count, d, w->key_pairs);
        for (i64 row = 0; row < t->padded; row += PANEL) backward_panel(s, t, w, row, first, count, scale * LOG2_E);
        for (i64 k = 0; k < count; k += TILE) backward_keys(s, t, w, first, k, key_sum);
    }
    for (i64 r = 0; r < t->rows; r++) write_row(w->sum + r * d, scale, d, grad_q + row_at(s, t, r, stride));
}

/* Tasks in order, cut into parts of about equal work: part p is [bound[p], bound[p + 1]). */
static void cut(const shape *s, const piece *all, i64 *bound) {
    double total = 0, done = 0;
    i64 tasks = s->pieces * s->heads, part = 0;
    for (int counting = 1; counting >= 0; counting--)
        for (i64 i = 0; i < tasks; i++) {
            const piece *p = all + i % s->pieces;
            double work = (double)p->length * (p->prefix + 0.5 * p->length + 16); /* 16: rows are packed and written */
            if (counting) total += work;
            else
                for (done += work; part < s->parts && done - 0.5 * work >= total * part / s->parts;) bound[part++] = i;
        }
    while (part <= s->parts) bound[part++] = tasks;
}

/* Gradients of one token's key and value: the sums of all parts that have a share in the head. */
static void add_parts(const shape *s, const i64 *bound, const float *sums, i64 h, i64 t, float *key, float *value) {
    memset(key, 0, s->d * sizeof(float));
    memset(value, 0, s->d * sizeof(float));
    for (i64 part = 0; part < s->parts; part++) {
        if (most(bound[part], h * s->pieces) >= least(bound[part + 1], (h + 1) * s->pieces)) continue;
        const float *k = sums + ((part + h) * 2 * s->tokens + t) * s->d, *v = k + s->tokens * s->d;
        for (i64 c = 0; c < s->d; c++) key[c] += k[c], value[c] += v[c];
    }
}

void attention_scratch(shape *s, const piece *all) { s->scratch = prepare(s, all, NULL).used; }

/* in: queries, keys, values. lse is the base 2 logarithm of each row's sum of e^(scale score). */
void attention(const bf16 *const in[3], const piece *all, const i64 *place, const shape *s, char *blocks, bf16 *out,
               float *lse, float scale) {
#pragma omp parallel num_threads((int)s->parts)
    {
        scratch w = prepare(s, all, blocks + omp_get_thread_num() * s->scratch);
#pragma omp for schedule(dynamic)
        for (i64 i = s->pieces * s->heads - 1; i >= 0; i--) {
            task t = find_task(s, all, place, i, &w);
            forward_task(s, &t, in, out, lse, scale, &w);
        }
    }
}

/* sums: (parts + heads) x 2 x tokens x d. Part p sums its share of head h in sums[p + h]: from task to task either the
 * part or the head goes on, so no two share a place. */
void attention_backward(const bf16 *const in[5], const float *lse, const piece *all, const i64 *place, const shape *s,
                        char *blocks, float *sums, i64 *bound, bf16 *const grad[3], float scale) {
    i64 size = 2 * s->tokens * s->d;
    cut(s, all, bound);
#pragma omp parallel num_threads((int)s->parts)
    {
        scratch w = prepare(s, all, blocks + omp_get_thread_num() * s->scratch);
#pragma omp for schedule(static, 1)
        for (i64 part = 0; part < s->parts; part++)
            for (i64 i = bound[part]; i < bound[part + 1]; i++) {
                task t = find_task(s, all, place, i, &w);
                float *sum = sums + (part + t.head) * size;
                if (i == bound[part] || i % s->pieces == 0) memset(sum, 0, size * sizeof(float));
                backward_task(s, &t, in, lse, grad[0], sum, scale, &w);
            }
#pragma omp for collapse(2) schedule(static)
        for (i64 t = 0; t < s->tokens; t++)
            for (i64 h = 0; h < s->heads; h++) {
                i64 to = (t * s->heads + h) * s->d;
                add_parts(s, bound, sums, h, t, w.sum, w.scores);
                write_row(w.sum, scale, s->d, grad[1] + to);
                write_row(w.scores, 1.0f, s->d, grad[2] + to);
            }
    }
}
#endif
