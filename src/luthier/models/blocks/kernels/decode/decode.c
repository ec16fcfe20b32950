/* One step of decoding on CPU: tokens of many sequences through all layers of a Llama-like model, in one parallel region.
 *
 * A step at a time is too little work for a parallel region an operation: the threads stay together for the whole of it
 * and wait for each other between phases. Within a phase they draw pieces of work from a counter. Who computes a number
 * never changes it, nor do the tokens beside it. Weights are read where torch holds them.
 */
#include "lanes.h"
#include "products.h"
#include "paged.h"
#include "decode.h"
#include "threads.h"

INLINE rows rows_of(const matrix *m, i64 first) {
    i64 step = m->in * width_of(m->kind);
    return (rows){m->at + first * step, step, m->kind, m->in};
}

INLINE tokens inputs(const shared *a) { return (tokens){a->in, a->in_half, a->in_step, NULL}; }

/* The adapters' z = x A^T of `count` parts that share an input. */
static void lower_ranks(worker *w, int half, const group *g, i64 groups, const int32_t *member, i64 first, int count,
                        tokens from, i64 in) {
    const shared *a = w->all;
    i64 blocks = (a->s->rank + RANKS - 1) / RANKS;
    if (!blocks || !groups) return;
    for (i64 i; (i = next(w)) < groups * count * blocks;) {
        const group *one = g + i / (count * blocks);
        i64 part = i / blocks % count, row = i % blocks * RANKS;
        const lora *l = one->at + first + part;
        i64 here = least(RANKS, l->rank - row);
        float *z = a->z + part * a->z_part + row;
        const int32_t *list = member + one->first;
        if (here <= 0) continue;
        i64 wide = in * width_of(l->down_kind);
        rows r = {l->down + row * wide, wide, l->down_kind, in};
        if (l->down_kind == ROUNDED) {
            spread(r.at, ROUNDED, in, here, w->panel);
            r = (rows){(const char *)w->panel, in * 4, FP32, in};
        }
        from.list = list;
        product(&from, one->count, &r, here, w->extra, RANKS);
        for (i64 t = 0; t < one->count; t++) {
            float *to = z + list[t] * a->z_step;
            for (i64 j = 0; j < here; j++) to[j] = one_rounded(half, w->extra[t * RANKS + j]);
        }
    }
    meet(w);
}

/* y += scale z B^T for outputs first .. first + count of one part, for the tokens that have it. */
static void raise_ranks(worker *w, int half, const group *g, i64 groups, const int32_t *member, i64 part, i64 place,
                        i64 first, i64 count, float *y) {
    const shared *a = w->all;
    for (i64 i = 0; i < groups; i++) {
        const lora *l = g[i].at + part;
        if (!l->rank) continue;
        const int32_t *list = member + g[i].first;
        const char *lines = l->up + first * width_of(l->up_kind);
        i64 step = l->lines, kind = l->up_kind;
        if (!step || count < CHUNK) {
            if (step) cut_lines(lines, kind, step, l->rank, count, w->panel);
            else across(l->up + first * l->rank * width_of(kind), kind, l->rank, count, w->panel);
            lines = (const char *)w->panel, step = CHUNK, kind = FP32;
        }
        for (i64 t = 0; t < g[i].count; t++) {
            const float *z = a->z + list[t] * a->z_step + place * a->z_part;
            float *to = y + list[t] * CHUNK;
            if (kind == BF16) add_ranks(half, BF16, z, l->rank, lines, step, (float)l->scale, to);
            else add_ranks(half, FP32, z, l->rank, lines, step, (float)l->scale, to);
        }
    }
}

/* Outputs first .. first + count of a matrix for n tokens, CHUNK apart in y, without adapters. */
static void project(int half, const matrix *m, const tokens *from, i64 n, i64 first, i64 count, float *y) {
    rows r = rows_of(m, first);
    product(from, n, &r, count, y, CHUNK);
    for (i64 t = 0; t < n; t++, y += CHUNK)
        for (i64 o = 0; o < count; o += LANES) {
            float factor[LANES] = {0}, bias[LANES] = {0};
            i64 left = least(LANES, count - o);
            vf value = load(y + o);
            if (m->scale) {
                memcpy(factor, m->scale + first + o, left * 4);
                value *= load(factor);
            }
            value = rounded(half, value);
            if (m->bias) {
                const bf16 *b16 = (const bf16 *)m->bias + first + o;
                const float *b32 = (const float *)m->bias + first + o;
                for (i64 j = 0; j < left; j++) bias[j] = half ? one_bf16(b16[j]) : b32[j];
                value = rounded(half, value + load(bias));
            }
            store(y + o, value);
        }
}

/* w x / sqrt(mean x^2 + eps) */
INLINE void norm(int half, const float *x, const void *w, i64 n, float eps, float *out) {
    vf squares = {0};
    for (i64 k = 0; k < n; k += LANES) squares = madd(load(x + k), load(x + k), squares);
    vf r = splat(1.0f / sqrtf(sum(squares) / (float)n + eps));
    for (i64 k = 0; k < n; k += LANES) store(out + k, rounded(half, get(half, w, k) * rounded(half, load(x + k) * r)));
}

static void norms(worker *w, int half, const void *weight, double eps) {
    const shared *a = w->all;
    i64 n = a->m->hidden;
    for (i64 t; (t = next(w)) < a->s->tokens;) {
        norm(half, a->x + t * n, weight, n, (float)eps, a->in + t * a->in_step);
        if (a->in_half) keep_half(a->in + t * a->in_step, n, a->in_half + t * a->in_step);
    }
    meet(w);
}

/* Queries, keys and values of all tokens. */
static void project_heads(worker *w, int half, const layer *l, i64 number) {
    const shared *a = w->all;
    const tokens from = inputs(a);
    const step *s = a->s;
    i64 chunks[4] = {0};
    for (int p = Q; p <= V; p++) chunks[p + 1] = chunks[p] + (l->part[p].out + CHUNK - 1) / CHUNK;
    i64 before[3] = {0, l->part[Q].out, l->part[Q].out + l->part[K].out};
    for (i64 i; (i = next(w)) < chunks[3];) {
        int p = i < chunks[1] ? Q : i < chunks[2] ? K : V;
        i64 first = (i - chunks[p]) * CHUNK, count = least(CHUNK, l->part[p].out - first);
        project(half, l->part + p, &from, s->tokens, first, count, w->y);
        raise_ranks(w, half, s->group, s->groups, s->member, number * PARTS + p, p, first, count, w->y);
        for (i64 t = 0; t < s->tokens; t++)
            memcpy(a->qkv + t * a->qkv_step + before[p] + first, w->y + t * CHUNK, count * 4);
    }
    meet(w);
}

INLINE void turn(int half, float *x, const float *c, const float *s, i64 d) {
    float *y = x + d / 2;
    for (i64 i = 0; i < d / 2; i++) {
        float u = x[i], v = y[i];
        x[i] = one_rounded(half, u * c[i] - v * s[i]);
        y[i] = one_rounded(half, v * c[i + d / 2] + u * s[i + d / 2]);
    }
}

/* Norms and rotary embedding of the heads; keys and values go to their pages. */
static void place_heads(worker *w, int half, const layer *l, i64 number) {
    const shared *a = w->all;
    const model *m = a->m;
    const step *s = a->s;
    i64 d = m->d, bytes = PAGE * d * (half ? 2 : 4);
    for (i64 t; (t = next(w)) < s->tokens;) {
        i64 at = s->position[t];
        float *q = a->qkv + t * a->qkv_step, *k = q + m->heads * d, *v = k + m->groups * d;
        for (i64 h = 0; h < m->heads + m->groups; h++) {
            const void *weight = l->head_norm[h >= m->heads];
            if (weight) norm(half, q + h * d, weight, d, (float)l->eps[0], q + h * d);
            turn(half, q + h * d, m->cos + at * d, m->sin + at * d, d);
        }
        char *page = s->page[s->page_of[t] + at / PAGE] + number * 2 * m->groups * bytes;
        for (i64 g = 0; g < m->groups; g++)
            keep(half, k + g * d, v + g * d, d, at % PAGE, page + g * bytes, page + (m->groups + g) * bytes);
    }
    meet(w);
}

/* One token's queries over the keys of one group of heads. */
static void attend_group(const worker *w, int half, const layer *l, i64 number, i64 t, i64 g) {
    const shared *a = w->all;
    const model *m = a->m;
    const step *s = a->s;
    i64 d = m->d, bytes = PAGE * d * (half ? 2 : 4), each = m->heads / m->groups, high = s->position[t] + 1;
    i64 low = l->window ? most(0, high - l->window) : 0, keys = (number * 2 * m->groups + g) * bytes;
    for (i64 h = 0; h < each; h += HEADS) {
        i64 from = (g * each + h) * d;
        attend(half, least(HEADS, each - h), a->qkv + t * a->qkv_step + from, d, (float)l->scale,
               s->page + s->page_of[t], keys, keys + m->groups * bytes, low, high, w->scores,
               up(s->keys + PAGE, PAGE), a->in + t * a->in_step + from);
    }
    i64 at = t * a->in_step + g * each * d;
    if (a->in_half) keep_half(a->in + at, each * d, a->in_half + at);
}

/* By token, whose heads lie side by side in memory; where there are few tokens, by token and head. */
static void attention(worker *w, int half, const layer *l, i64 number) {
    const shared *a = w->all;
    i64 groups = a->m->groups, n = a->s->tokens, pieces = n < 4 * a->threads ? groups : 1;
    for (i64 i; (i = next(w)) < n * pieces;) {
        if (pieces > 1) attend_group(w, half, l, number, i / groups, i % groups);
        else
            for (i64 g = 0; g < groups; g++) attend_group(w, half, l, number, i, g);
    }
    meet(w);
}

/* x += the part of its input. */
static void add_part(worker *w, int half, const layer *l, i64 number, int part, tokens from) {
    const shared *a = w->all;
    const step *s = a->s;
    i64 out = a->m->hidden;
    for (i64 i; (i = next(w)) * CHUNK < out;) {
        i64 first = i * CHUNK, count = least(CHUNK, out - first);
        project(half, l->part + part, &from, s->tokens, first, count, w->y);
        raise_ranks(w, half, s->group, s->groups, s->member, number * PARTS + part, 0, first, count, w->y);
        for (i64 t = 0; t < s->tokens; t++) {
            float *x = a->x + t * out + first, *y = w->y + t * CHUNK;
            for (i64 o = 0; o < count; o += LANES) store(x + o, rounded(half, load(x + o) + load(y + o)));
        }
    }
    meet(w);
}

/* act = silu(gate) up */
static void gated(worker *w, int half, const layer *l, i64 number) {
    const shared *a = w->all;
    const tokens from = inputs(a);
    const step *s = a->s;
    float *gate = w->y, *up_ = w->y + s->tokens * CHUNK;
    for (i64 i; (i = next(w)) * CHUNK < a->m->inner;) {
        i64 first = i * CHUNK, count = least(CHUNK, a->m->inner - first);
        for (int p = GATE; p <= UP; p++) {
            float *y = p == GATE ? gate : up_;
            project(half, l->part + p, &from, s->tokens, first, count, y);
            raise_ranks(w, half, s->group, s->groups, s->member, number * PARTS + p, p - GATE, first, count, y);
        }
        for (i64 t = 0; t < s->tokens; t++)
            for (i64 o = 0; o < count; o += LANES) {
                vf g = load(gate + t * CHUNK + o), u = load(up_ + t * CHUNK + o);
                vf silu = rounded(half, g / (exp_(-g) + 1.0f));
                store(a->act + t * a->act_step + first + o, rounded(half, silu * u));
            }
        for (i64 t = 0; a->act_half && t < s->tokens; t++) {
            i64 at = t * a->act_step + first;
            keep_half(a->act + at, count, a->act_half + at);
        }
    }
    meet(w);
}

static void head(worker *w, int half) {
    const shared *a = w->all;
    const model *m = a->m;
    const step *s = a->s;
    const tokens from = inputs(a);
    for (i64 i; (i = next(w)) < s->wanted;) {
        norm(half, a->x + s->want[i] * m->hidden, m->norm, m->hidden, (float)m->eps, a->in + i * a->in_step);
        if (a->in_half) keep_half(a->in + i * a->in_step, m->hidden, a->in_half + i * a->in_step);
    }
    meet(w);
    i64 part = m->depth * PARTS;
    lower_ranks(w, half, s->head_group, s->head_groups, s->head_member, part, 1, from, m->hidden);
    for (i64 i; (i = next(w)) * CHUNK < m->vocabulary;) {
        i64 first = i * CHUNK, count = least(CHUNK, m->vocabulary - first);
        project(half, &m->head, &from, s->wanted, first, count, w->y);
        raise_ranks(w, half, s->head_group, s->head_groups, s->head_member, part, 0, first, count, w->y);
        for (i64 t = 0; t < s->wanted; t++) memcpy(s->logits + t * m->vocabulary + first, w->y + t * CHUNK, count * 4);
    }
}

INLINE void work(worker *w, int half) {
    const shared *a = w->all;
    const model *m = a->m;
    const step *s = a->s;
    const tokens in = inputs(a), act = {a->act, a->act_half, a->act_step, NULL};
    i64 n = m->hidden, wide = m->heads * m->d;
    for (i64 t; (t = next(w)) < s->tokens;)
        for (i64 k = 0; k < n; k += LANES)
            store(a->x + t * n + k, get(half, m->embedding + s->id[t] * n * (half ? 2 : 4), k));
    meet(w);
    for (i64 number = 0; number < m->depth; number++) {
        const layer *l = m->layers + number;
        i64 part = number * PARTS;
        norms(w, half, l->norm[0], l->eps[0]);
        lower_ranks(w, half, s->group, s->groups, s->member, part + Q, 3, in, n);
        project_heads(w, half, l, number);
        place_heads(w, half, l, number);
        attention(w, half, l, number);
        lower_ranks(w, half, s->group, s->groups, s->member, part + O, 1, in, wide);
        add_part(w, half, l, number, O, in);
        norms(w, half, l->norm[1], l->eps[1]);
        lower_ranks(w, half, s->group, s->groups, s->member, part + GATE, 2, in, n);
        gated(w, half, l, number);
        lower_ranks(w, half, s->group, s->groups, s->member, part + DOWN, 1, act, m->inner);
        add_part(w, half, l, number, DOWN, act);
    }
    if (s->wanted) head(w, half);
}

static void work_bf16(worker *w) { work(w, 1); }
static void work_fp32(worker *w) { work(w, 0); }

/* Bytes that a step works in. */
i64 decode_space(const model *m, const step *s) {
    shared a;
    return cut(&a, m, s, NULL) + LINE;
}

void decode_step(const model *m, const step *s) {
    shared a;
    cut(&a, m, s, (char *)up((i64)s->space, LINE));
#pragma omp parallel num_threads((int)s->threads)
    {
#pragma omp single
        a.threads = omp_get_num_threads(); /* fewer where it is called from within a parallel region */
        worker w = {.all = &a, .counter = a.counter};
        cut_own(&a, a.own + omp_get_thread_num() * a.scratch, &w);
        if (m->half) work_bf16(&w);
        else work_fp32(&w);
    }
}

/* Sizes of what is laid out elsewhere, to be compared. */
void decode_sizes(i64 out[6]) {
    out[0] = sizeof(matrix), out[1] = sizeof(lora), out[2] = sizeof(layer);
    out[3] = sizeof(model), out[4] = sizeof(group), out[5] = sizeof(step);
}
