/* Elementwise kernels of the training core for CPU, bf16 in memory, fp32 in registers.
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

static inline float largest(const bf16 *x, i64 n) {
    int16_t top = INT16_MIN;
    for (i64 k = 0; k < n; k++) {
        int16_t o = ordered((int16_t)x[k]);
        top = o > top ? o : top;
    }
    return load((bf16)ordered(top));
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

/* out = w * bf16(x * rstd), rstd = rsqrt(mean(x^2) + eps) */
void rms_norm(const bf16 *x, const bf16 *w, bf16 *out, float *rstd, i64 rows, i64 n, float eps) {
#pragma omp parallel for schedule(static)
    for (i64 t = 0; t < rows; t++) {
        const bf16 *RESTRICT xt = x + t * n;
        bf16 *RESTRICT ot = out + t * n;
        float sum = 0;
        for (i64 i = 0; i < n; i++) sum += load(xt[i]) * load(xt[i]);
        float r = 1.0f / sqrtf(sum / n + eps);
        rstd[t] = r;
        for (i64 i = 0; i < n; i++) ot[i] = store(load(w[i]) * load(store(load(xt[i]) * r)));
    }
}

/* out = add + rstd * (w g - x * rstd^2 * mean(w g x)) */
void rms_norm_backward(const bf16 *add, const bf16 *g, const bf16 *x, const bf16 *w, const float *rstd, bf16 *out,
                       i64 rows, i64 n) {
#pragma omp parallel for schedule(static)
    for (i64 t = 0; t < rows; t++) {
        const bf16 *RESTRICT at = add + t * n;
        const bf16 *RESTRICT gt = g + t * n;
        const bf16 *RESTRICT xt = x + t * n;
        bf16 *RESTRICT ot = out + t * n;
        float sum = 0, r = rstd[t];
        for (i64 i = 0; i < n; i++) sum += load(gt[i]) * load(w[i]) * load(xt[i]);
        float c = sum * r * r / n;
        for (i64 i = 0; i < n; i++) ot[i] = store(load(at[i]) + r * (load(gt[i]) * load(w[i]) - load(xt[i]) * c));
    }
}

/* Rotate heads of dimension d in place: (a, b) -> (a cos - b sin, b cos + a sin), halves a and b; sign = -1 undoes. */
void rope(bf16 *x, const bf16 *cos, const bf16 *sin, i64 rows, i64 heads, i64 d, i64 stride, float sign) {
    i64 half = d / 2;
#pragma omp parallel for schedule(static)
    for (i64 t = 0; t < rows; t++) {
        const bf16 *RESTRICT c = cos + t * d;
        const bf16 *RESTRICT s = sin + t * d;
        for (i64 h = 0; h < heads; h++) {
            bf16 *RESTRICT a = x + t * stride + h * d;
            bf16 *RESTRICT b = a + half;
            for (i64 i = 0; i < half; i++) {
                float u = load(a[i]), v = load(b[i]);
                float sa = sign * load(s[i]), sb = sign * load(s[i + half]);
                a[i] = store(u * load(c[i]) - v * sa);
                b[i] = store(v * load(c[i + half]) + u * sb);
            }
        }
    }
}

/* out = silu(gate) * up; gate and up lie side by side in a row of 2n. */
void swiglu(const bf16 *gate_up, bf16 *out, i64 rows, i64 n) {
#pragma omp parallel for schedule(static)
    for (i64 t = 0; t < rows; t++) {
        const bf16 *RESTRICT g = gate_up + t * 2 * n;
        const bf16 *RESTRICT u = g + n;
        bf16 *RESTRICT o = out + t * n;
        for (i64 i = 0; i < n; i++) {
            float x = load(g[i]);
            o[i] = store(load(store(x / (1.0f + exp_(-x)))) * load(u[i]));
        }
    }
}

/* Gradients of swiglu, written over gate_up; the output is written over its gradient. */
void swiglu_backward(bf16 *gate_up, bf16 *grad, i64 rows, i64 n) {
#pragma omp parallel for schedule(static)
    for (i64 t = 0; t < rows; t++) {
        bf16 *RESTRICT g = gate_up + t * 2 * n;
        bf16 *RESTRICT u = g + n;
        bf16 *RESTRICT d = grad + t * n;
        for (i64 i = 0; i < n; i++) {
            float x = load(g[i]), y = load(u[i]), dy = load(d[i]);
            float sigmoid = 1.0f / (1.0f + exp_(-x));
            float silu = x * sigmoid;
            g[i] = store(dy * y * sigmoid * (1.0f + x * (1.0f - sigmoid)));
            u[i] = store(dy * silu);
            d[i] = store(load(store(silu)) * y);
        }
    }
}

/* scores: blocks x (group * longest) x keys, `per_node` blocks for each node. Query i of node b (i < length[b], padding
 * counts as the last) sees keys (prefix[b] + i - window, prefix[b] + i]; window 0 = all before. */
void causal_softmax(bf16 *scores, const int32_t *prefix, const int32_t *length, i64 blocks, i64 per_node, i64 queries,
                    i64 longest, i64 keys, i64 window, float scale) {
#pragma omp parallel for collapse(2) schedule(static)
    for (i64 b = 0; b < blocks; b++)
        for (i64 q = 0; q < queries; q++) {
            i64 node = b / per_node, i = q % longest;
            if (i >= length[node]) i = length[node] - 1;
            i64 last = prefix[node] + i + 1, first = window && last > window ? last - window : 0;
            bf16 *RESTRICT s = scores + (b * queries + q) * keys;
            float top = scale * largest(s + first, last - first), sum = 0;
            for (i64 k = first; k < last; k++) sum += exp_(load(s[k]) * scale - top);
            float inverse = 1.0f / sum;
            for (i64 k = first; k < last; k++) s[k] = store(exp_(load(s[k]) * scale - top) * inverse);
            memset(s, 0, first * sizeof(bf16));
            memset(s + last, 0, (keys - last) * sizeof(bf16));
        }
}

/* g = scale * p * (g - sum(g p)), in place; p is zero where a key is not seen. */
void causal_softmax_backward(bf16 *g, const bf16 *p, i64 rows, i64 keys, float scale) {
#pragma omp parallel for schedule(static)
    for (i64 r = 0; r < rows; r++) {
        bf16 *RESTRICT gr = g + r * keys;
        const bf16 *RESTRICT pr = p + r * keys;
        float dot = 0;
        for (i64 k = 0; k < keys; k++) dot += load(gr[k]) * load(pr[k]);
        for (i64 k = 0; k < keys; k++) gr[k] = store(scale * load(pr[k]) * (load(gr[k]) - dot));
    }
}

/* Tokens to nodes: out (nodes, heads, group, longest, d) from rows of x (heads x group x d, `stride` apart); place -1 is
 * padding and becomes zero. */
void fold(const bf16 *x, const i64 *place, bf16 *out, i64 nodes, i64 longest, i64 heads, i64 group, i64 d, i64 stride) {
#pragma omp parallel for collapse(2) schedule(static)
    for (i64 b = 0; b < nodes; b++)
        for (i64 h = 0; h < heads * group; h++) {
            bf16 *o = out + (b * heads * group + h) * longest * d;
            for (i64 l = 0; l < longest; l++) {
                i64 t = place[b * longest + l];
                if (t < 0) memset(o + l * d, 0, d * sizeof(bf16));
                else memcpy(o + l * d, x + t * stride + h * d, d * sizeof(bf16));
            }
        }
}

/* The way back, for places that occur once. */
void unfold(const bf16 *x, const i64 *place, bf16 *out, i64 nodes, i64 longest, i64 heads, i64 group, i64 d, i64 stride) {
#pragma omp parallel for collapse(2) schedule(static)
    for (i64 b = 0; b < nodes; b++)
        for (i64 h = 0; h < heads * group; h++) {
            const bf16 *o = x + (b * heads * group + h) * longest * d;
            for (i64 l = 0; l < longest; l++) {
                i64 t = place[b * longest + l];
                if (t >= 0) memcpy(out + t * stride + h * d, o + l * d, d * sizeof(bf16));
            }
        }
}

/* The way back, added up in fp32 where nodes share places; heads are spread over the threads, nodes are not. */
void unfold_add(const bf16 *x, const i64 *place, float *sum, i64 nodes, i64 longest, i64 heads, i64 d) {
    i64 parts = d % 32 ? 1 : d / 32, n = d / parts;
#pragma omp parallel for collapse(2) schedule(static)
    for (i64 h = 0; h < heads; h++)
        for (i64 p = 0; p < parts; p++)
            for (i64 b = 0; b < nodes; b++)
                for (i64 l = 0; l < longest; l++) {
                    i64 t = place[b * longest + l];
                    if (t < 0) continue;
                    const bf16 *RESTRICT from = x + ((b * heads + h) * longest + l) * d + p * n;
                    float *RESTRICT to = sum + (t * heads + h) * d + p * n;
                    for (i64 i = 0; i < n; i++) to[i] += load(from[i]);
                }
}

/* One block of the vocabulary of a running softmax. Row by row: `top` and `sum` (of e^(x - top)) and `total` (of x) take
 * in the block's logits x, which become e^(x - top); `rescale` is what earlier blocks' terms must be multiplied by. */
void online_softmax(bf16 *logits, float *top, float *sum, float *total, float *rescale, i64 rows, i64 n) {
#pragma omp parallel for schedule(static)
    for (i64 r = 0; r < rows; r++) {
        bf16 *RESTRICT x = logits + r * n;
        float here = largest(x, n), high = top[r] > here ? top[r] : here, added = 0, plain = 0;
        for (i64 k = 0; k < n; k++) plain += load(x[k]);
        for (i64 k = 0; k < n; k++) added += exp_(load(x[k]) - high);
        for (i64 k = 0; k < n; k++) x[k] = store(exp_(load(x[k]) - high));
        rescale[r] = exp_(top[r] - high);
        sum[r] = sum[r] * rescale[r] + added;
        total[r] += plain;
        top[r] = high;
    }
}
