/* The choice of the next token of each row of logits, for CPU in fp32.
 *
 * sample.py tells what `row` holds, and engines/choice.py what is computed, in numpy. Rows are spread over OpenMP
 * threads. What a row gets depends on that row alone: its logits are first copied to memory that is aligned and filled
 * up with -inf to whole blocks, so that every loop below runs over whole blocks and adds in the same order wherever the
 * row lay. Exponentials are fp32, their sums fp64.
 */
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

typedef int64_t i64;
typedef uint64_t u64;
#define RESTRICT __restrict__
#define BLOCK 256
#define CHUNK 32
#define BUCKETS 2048
#define LIKELIEST 20
#define FAR 86.0 /* below the top, in temperatures: what is farther has no weight */
#define NO_NUMBER (-1)
#define NOTHING_LEFT (-2)

typedef struct {
    const int32_t *biased; /* tokens, and what is added to their logits */
    const float *bias;
    const int32_t *seen; /* tokens of the prompt or the answer, and how often the answer has them */
    const int32_t *count;
    const int32_t *mask; /* a bit for each token that may come, or null */
    i64 biases, seens, top_k, likeliest;
    double temperature, top_p, min_p, repetition, presence, frequency;
    double draw; /* in [0, 1) */
    i64 token; /* from here on what is answered; the token may be one of the two above */
    double logp, drawn;
    int32_t top[LIKELIEST]; /* -1 where there are fewer */
    double top_logp[LIKELIEST];
} row;

typedef struct {
    float *logits, *weights; /* whole blocks */
    double *sums;            /* of each block's weights */
    u64 *keys, *within, *spare;
} scratch;

typedef struct {
    float top, scale;          /* the greatest logit, and buckets to a logit below it */
    double temperature, floor; /* that of min_p, below the top, at temperature 1 */
    i64 count[BUCKETS];
    double mass[BUCKETS];
} buckets;

/* e^x for x <= 0 to about 2 ulp: 2^n times a polynomial on [-ln2/2, ln2/2]. */
static inline float exp_(float x) {
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

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

/* Bits as integers in the order of the numbers they stand for (its own inverse). */
static inline int32_t ordered(int32_t bits) { return bits ^ ((bits >> 31) & 0x7fffffff); }

static float largest(const float *RESTRICT x, i64 n) {
    int32_t top = INT32_MIN;
    for (i64 i = 0; i < n; i++) {
        int32_t o = ordered((int32_t)bits_of(x[i]));
        top = o > top ? o : top;
    }
    top = ordered(top);
    float f;
    memcpy(&f, &top, 4);
    return f;
}

/* Copy n logits and fill up to whole blocks. Is there a NaN or a +inf? */
static int copy(const float *RESTRICT from, float *RESTRICT to, i64 n, i64 whole) {
    uint32_t bad = 0;
    for (i64 i = 0; i < n; i++) {
        uint32_t bits = bits_of(from[i]);
        bad |= ((bits & 0x7f800000u) == 0x7f800000u) & (bits != 0xff800000u);
        to[i] = from[i];
    }
    for (i64 i = n; i < whole; i++) to[i] = -INFINITY;
    return bad != 0;
}

/* Weights e^((x - top) / temperature), and their sum. */
static double exponentials(const scratch *s, i64 whole, float top, float inverse) {
    double total = 0;
    for (i64 b = 0; b < whole; b += BLOCK) {
        const float *RESTRICT x = s->logits + b;
        float *RESTRICT w = s->weights + b;
        double sum = 0;
        for (i64 i = 0; i < BLOCK; i++) w[i] = exp_((x[i] - top) * inverse);
        for (i64 i = 0; i < BLOCK; i++) sum += w[i];
        s->sums[b / BLOCK] = sum;
        total += sum;
    }
    return total;
}

/* The likeliest tokens, the lowest first among equals; their logits in `top_logp`. */
static void likeliest(row *r, const scratch *s, i64 whole) {
    i64 wanted = r->likeliest < LIKELIEST ? r->likeliest : LIKELIEST, found = 0;
    for (i64 b = 0; b < whole; b += BLOCK) {
        const float *x = s->logits + b;
        float least = found < wanted ? -INFINITY : (float)r->top_logp[found - 1];
        if (!(largest(x, BLOCK) > least)) continue; /* later tokens lose against equal ones */
        for (i64 i = 0; i < BLOCK; i++) {
            if (!(x[i] > (found < wanted ? -INFINITY : r->top_logp[found - 1]))) continue;
            i64 place = found < wanted ? found++ : found - 1;
            for (; place > 0 && r->top_logp[place - 1] < x[i]; place--) {
                r->top_logp[place] = r->top_logp[place - 1];
                r->top[place] = r->top[place - 1];
            }
            r->top_logp[place] = x[i];
            r->top[place] = (int32_t)(b + i);
        }
    }
    for (i64 i = found; i < LIKELIEST; i++) r->top[i] = -1;
}

/* Bias, penalties and grammar. Does any of them change the row? */
static int change(const row *r, float *x, i64 n) {
    int penal = r->repetition != 1 || r->presence != 0 || r->frequency != 0;
    for (i64 i = 0; i < r->biases; i++) x[r->biased[i]] += r->bias[i];
    for (i64 i = 0; penal && i < r->seens; i++) {
        float *z = x + r->seen[i];
        double y = *z > 0 ? *z / r->repetition : *z * r->repetition;
        if (r->count[i]) y -= r->presence + r->frequency * r->count[i];
        *z = (float)y;
    }
    for (i64 b = 0; r->mask && b < n; b += 32) {
        uint32_t word = (uint32_t)r->mask[b / 32];
        if (word == 0xffffffffu) continue;
        for (i64 i = 0; i < 32; i++) /* the last word may reach beyond n, into what fills up the block */
            x[b + i] = word >> i & 1 ? x[b + i] : -INFINITY;
    }
    return r->biases || (penal && r->seens) || r->mask;
}

/* Sort by the high word, descending; equal ones stay as they stand. What is sorted lies in the array that is answered. */
static u64 *descending(u64 *keys, u64 *spare, i64 n) {
    if (n <= 48) {
        for (i64 i = 1; i < n; i++) {
            u64 key = keys[i];
            i64 j = i;
            for (; j > 0 && keys[j - 1] >> 32 < key >> 32; j--) keys[j] = keys[j - 1];
            keys[j] = key;
        }
        return keys;
    }
    uint32_t begin[4][256];
    memset(begin, 0, sizeof begin);
    for (i64 i = 0; i < n; i++)
        for (int d = 0; d < 4; d++) begin[d][keys[i] >> (32 + 8 * d) & 255]++;
    for (int d = 0; d < 4; d++) {
        if (begin[d][keys[0] >> (32 + 8 * d) & 255] == n) continue; /* all alike */
        uint32_t place = 0;
        for (int v = 255; v >= 0; v--) {
            uint32_t many = begin[d][v];
            begin[d][v] = place, place += many;
        }
        for (i64 i = 0; i < n; i++) spare[begin[d][keys[i] >> (32 + 8 * d) & 255]++] = keys[i];
        u64 *sorted = spare;
        spare = keys, keys = sorted;
    }
    return keys;
}

static inline i64 token_of(u64 key) { return (i64)(key & 0xffffffffu); }

/* The tokens of at least this logit into `keys`: the logit as an integer in its order, and below it the token. */
static i64 collect(const scratch *s, i64 whole, float least) {
    i64 n = 0;
    for (i64 b = 0; b < whole; b += CHUNK) {
        const float *RESTRICT x = s->logits + b;
        int any = 0;
        for (i64 i = 0; i < CHUNK; i++) any |= x[i] >= least;
        if (!any) continue;
        for (i64 i = 0; i < CHUNK; i++) {
            uint32_t bits = bits_of(x[i]) == 0x80000000u ? 0 : bits_of(x[i]); /* -0 is 0 */
            s->keys[n] = (u64)((uint32_t)ordered((int32_t)bits) ^ 0x80000000u) << 32 | (u64)(b + i);
            n += x[i] >= least;
        }
    }
    return n;
}

/* How many tokens have at least this logit, and their mass. */
static i64 above(const scratch *s, i64 whole, float least, double *mass) {
    const float *RESTRICT x = s->logits;
    const float *RESTRICT w = s->weights;
    int32_t many = 0;
    double sum = 0;
    for (i64 i = 0; i < whole; i++) many += x[i] >= least;
    for (i64 i = 0; i < whole; i++) sum += x[i] >= least ? w[i] : 0.0f;
    *mass = sum;
    return many;
}

/* The tokens that top_k, top_p and min_p may keep: those above a logit that falls until it is sure. */
static i64 candidates(const row *r, const scratch *s, i64 whole, double total, buckets *h) {
    static const double falling[] = {4, 8, 12, FAR}; /* below the top, at temperature 1 */
    i64 k = r->top_k;
    double least = h->floor, mass;
    if (k && r->top_p < 1) least = -FAR; /* top_p is of the mass of all k */
    for (int i = 0; (k || r->top_p < 1) && -falling[i] > least; i++) {
        float here = (float)(h->top - falling[i] * h->temperature);
        i64 count = above(s, whole, here, &mass);
        if (k ? count >= k : mass >= r->top_p * total) least = -falling[i];
    }
    float here = (float)(h->top + least * h->temperature);
    h->scale = (float)((BUCKETS - 1) / (-least * h->temperature));
    h->scale = h->scale < 1e30f ? h->scale : 0;
    return collect(s, whole, here);
}

/* Buckets lie in the order of the logits. */
static inline uint32_t bucket(const scratch *s, const buckets *h, u64 key) {
    float b = (h->top - s->logits[token_of(key)]) * h->scale;
    return b < BUCKETS - 1 ? (uint32_t)b : BUCKETS - 1;
}

/* Spread the candidates over buckets: what need not be told apart within a bucket is not sorted. */
static void spread(const scratch *s, i64 n, buckets *h) {
    memset(h->count, 0, sizeof h->count);
    memset(h->mass, 0, sizeof h->mass);
    for (i64 i = 0; i < n; i++) {
        uint32_t b = bucket(s, h, s->keys[i]);
        h->count[b]++;
        h->mass[b] += s->weights[token_of(s->keys[i])];
    }
}

/* Take candidates, the heaviest first and the lowest token first among equals, while there are fewer than `limit` (1 to
 * n) and they weigh less than `reach`. Answers how many; their mass and the last one go where the pointers say. */
static i64 take(const scratch *s, i64 n, const buckets *h, i64 limit, double reach, double *mass, i64 *last) {
    i64 taken = 0;
    double sum = 0;
    for (i64 b = 0; b < BUCKETS; b++) {
        if (taken + h->count[b] < limit && sum + h->mass[b] < reach) {
            taken += h->count[b], sum += h->mass[b];
            continue;
        }
        i64 m = 0;
        for (i64 i = 0; i < n; i++) {
            s->within[m] = s->keys[i];
            m += bucket(s, h, s->keys[i]) == b;
        }
        const u64 *sorted = descending(s->within, s->spare, m);
        for (i64 i = 0; i < m && taken < limit && sum < reach; i++) {
            *last = token_of(sorted[i]);
            sum += s->weights[*last], taken++;
        }
        if (taken == limit || sum >= reach) break;
    }
    *mass = sum;
    return taken;
}

/* Draw from what is kept of the candidates. */
static void draw_kept(row *r, const scratch *s, i64 whole, double total, float top, double inverse) {
    buckets h = {.top = top, .temperature = 1 / inverse, .floor = r->min_p > 0 ? log(r->min_p) : -FAR};
    i64 n = candidates(r, s, whole, total, &h), kept = r->top_k && r->top_k < n ? r->top_k : n;
    double mass, least;
    spread(s, n, &h);
    if (r->top_k) take(s, n, &h, kept, INFINITY, &total, &r->token);
    kept = take(s, n, &h, kept, r->top_p < 1 ? r->top_p * total : INFINITY, &mass, &r->token);
    if (r->top_k && r->top_p < 1 && r->min_p > 0) {
        i64 likely = above(s, whole, (float)(top + h.floor * h.temperature), &least);
        if (likely < kept) kept = likely, mass = least;
    }
    take(s, n, &h, kept, nextafter(r->draw * mass, INFINITY), &least, &r->token);
    r->drawn = mass;
}

/* Draw from all tokens, in their order. */
static void draw_any(row *r, const scratch *s, i64 whole, double total) {
    double target = r->draw * total, before = 0;
    i64 b = -1;
    for (i64 i = 0; i < whole / BLOCK; i++) {
        if (s->sums[i] == 0) continue;
        if (b >= 0) before += s->sums[b];
        b = i;
        if (before + s->sums[i] > target) break;
    }
    for (i64 i = b * BLOCK; i < (b + 1) * BLOCK; i++) {
        if (s->weights[i] == 0) continue; /* also where rounding carries a draw beyond the block's end */
        r->token = i;
        before += s->weights[i];
        if (before > target) break;
    }
    r->drawn = total;
}

static void one(const float *logits, row *r, scratch s, i64 n, i64 whole) {
    float *x = s.logits;
    r->token = NO_NUMBER;
    if (copy(logits, x, n, whole)) return;
    float raw = largest(x, whole);
    if (raw == -INFINITY) return;
    double all = exponentials(&s, whole, raw, 1.0f), log_all = log(all);
    if (r->likeliest) {
        likeliest(r, &s, whole);
        for (i64 i = 0; i < LIKELIEST && r->top[i] >= 0; i++) r->top_logp[i] = ((double)r->top_logp[i] - raw) - log_all;
    }
    int changed = change(r, x, n);
    float top = changed ? largest(x, whole) : raw;
    if (!(top < INFINITY)) return;
    if (top == -INFINITY) {
        r->token = NOTHING_LEFT;
        return;
    }
    r->drawn = 0;
    if (r->temperature == 0) {
        r->token = 0;
        while (x[r->token] != top) r->token++;
    } else {
        double inverse = 1 / r->temperature;
        inverse = inverse > 1e30 ? 1e30 : inverse < 1e-30 ? 1e-30 : inverse; /* 0 times it is 0, and inf stays inf */
        double total = all;
        if (changed || inverse != 1) total = exponentials(&s, whole, top, (float)inverse);
        if (r->top_k || r->top_p < 1 || r->min_p > 0) draw_kept(r, &s, whole, total, top, inverse);
        else draw_any(r, &s, whole, total);
        if (r->token < 0 || r->token >= n) { /* what was asked is no number */
            r->token = NO_NUMBER;
            return;
        }
        r->drawn = ((double)x[r->token] - top) * inverse - log(r->drawn);
        r->drawn = r->drawn > 0 ? 0 : r->drawn;
    }
    r->logp = ((double)logits[r->token] - raw) - log_all;
    r->logp = r->logp > 0 ? 0 : r->logp;
}

static i64 whole_blocks(i64 n) { return (n + BLOCK - 1) / BLOCK * BLOCK; }

/* Bytes that each thread needs. */
i64 sample_scratch(i64 n) {
    i64 whole = whole_blocks(n);
    return (2 * sizeof(float) + 3 * sizeof(u64)) * whole + sizeof(double) * whole / BLOCK + 64;
}

void sample(const float *logits, i64 stride, row **rows, i64 count, i64 n, char *memory, i64 threads) {
    i64 whole = whole_blocks(n), each = sample_scratch(n);
#pragma omp parallel num_threads((int)threads)
    {
        char *own = memory + omp_get_thread_num() * each;
        own += (64 - (uintptr_t)own % 64) % 64;
        scratch s;
        s.logits = (float *)own, s.weights = s.logits + whole;
        s.keys = (u64 *)(s.weights + whole), s.within = s.keys + whole, s.spare = s.within + whole;
        s.sums = (double *)(s.spare + whole);
#pragma omp for schedule(dynamic)
        for (i64 i = 0; i < count; i++) one(logits + i * stride, rows[i], s, n, whole);
    }
}
