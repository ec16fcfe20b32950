/* The bodies of cpu.c's kernels for one type of numbers in memory, included once for each.
 *
 * Set before: `number`, the type; LOAD and STORE, to and from float; LARGEST(x, n); NAME(kernel), the kernel's name for it.
 */

/* out = w * number(x * rstd), rstd = rsqrt(mean(x^2) + eps) */
void NAME(rms_norm)(const number *x, const number *w, number *out, float *rstd, i64 rows, i64 n, float eps) {
#pragma omp parallel for schedule(static)
    for (i64 t = 0; t < rows; t++) {
        const number *RESTRICT xt = x + t * n;
        number *RESTRICT ot = out + t * n;
        float sum = 0;
        for (i64 i = 0; i < n; i++) sum += LOAD(xt[i]) * LOAD(xt[i]);
        float r = 1.0f / sqrtf(sum / n + eps);
        rstd[t] = r;
        for (i64 i = 0; i < n; i++) ot[i] = STORE(LOAD(w[i]) * LOAD(STORE(LOAD(xt[i]) * r)));
    }
}

/* out = add + rstd * (w g - x * rstd^2 * mean(w g x)) */
void NAME(rms_norm_backward)(const number *add, const number *g, const number *x, const number *w, const float *rstd,
                             number *out, i64 rows, i64 n) {
#pragma omp parallel for schedule(static)
    for (i64 t = 0; t < rows; t++) {
        const number *RESTRICT at = add + t * n;
        const number *RESTRICT gt = g + t * n;
        const number *RESTRICT xt = x + t * n;
        number *RESTRICT ot = out + t * n;
        float sum = 0, r = rstd[t];
        for (i64 i = 0; i < n; i++) sum += LOAD(gt[i]) * LOAD(w[i]) * LOAD(xt[i]);
        float c = sum * r * r / n;
        for (i64 i = 0; i < n; i++) ot[i] = STORE(LOAD(at[i]) + r * (LOAD(gt[i]) * LOAD(w[i]) - LOAD(xt[i]) * c));
    }
}

/* Rotate heads of dimension d in place: (a, b) -> (a cos - b sin, b cos + a sin), halves a and b; sign = -1 undoes. */
void NAME(rope)(number *x, const number *cos, const number *sin, i64 rows, i64 heads, i64 d, i64 stride, float sign) {
    i64 half = d / 2;
#pragma omp parallel for schedule(static)
    for (i64 t = 0; t < rows; t++) {
        const number *RESTRICT c = cos + t * d;
        const number *RESTRICT s = sin + t * d;
        for (i64 h = 0; h < heads; h++) {
            number *RESTRICT a = x + t * stride + h * d;
            number *RESTRICT b = a + half;
            for (i64 i = 0; i < half; i++) {
                float u = LOAD(a[i]), v = LOAD(b[i]);
                float sa = sign * LOAD(s[i]), sb = sign * LOAD(s[i + half]);
                a[i] = STORE(u * LOAD(c[i]) - v * sa);
                b[i] = STORE(v * LOAD(c[i + half]) + u * sb);
            }
        }
    }
}

/* out = silu(gate) * up; gate and up lie side by side in a row of 2n. */
void NAME(swiglu)(const number *gate_up, number *out, i64 rows, i64 n) {
#pragma omp parallel for schedule(static)
    for (i64 t = 0; t < rows; t++) {
        const number *RESTRICT g = gate_up + t * 2 * n;
        const number *RESTRICT u = g + n;
        number *RESTRICT o = out + t * n;
        for (i64 i = 0; i < n; i++) {
            float x = LOAD(g[i]);
            o[i] = STORE(LOAD(STORE(x / (1.0f + exp_(-x)))) * LOAD(u[i]));
        }
    }
}

/* Gradients of swiglu, written over gate_up; the output is written over its gradient. */
void NAME(swiglu_backward)(number *gate_up, number *grad, i64 rows, i64 n) {
#pragma omp parallel for schedule(static)
    for (i64 t = 0; t < rows; t++) {
        number *RESTRICT g = gate_up + t * 2 * n;
        number *RESTRICT u = g + n;
        number *RESTRICT d = grad + t * n;
        for (i64 i = 0; i < n; i++) {
            float x = LOAD(g[i]), y = LOAD(u[i]), dy = LOAD(d[i]);
            float sigmoid = 1.0f / (1.0f + exp_(-x));
            float silu = x * sigmoid;
            g[i] = STORE(dy * y * sigmoid * (1.0f + x * (1.0f - sigmoid)));
            u[i] = STORE(dy * silu);
            d[i] = STORE(LOAD(STORE(silu)) * y);
        }
    }
}

/* scores: blocks x (group * longest) x keys, `per_node` blocks for each node. Query i of node b (i < length[b], padding
 * counts as the last) sees keys (prefix[b] + i - window, prefix[b] + i]; window 0 = all before. */
void NAME(causal_softmax)(number *scores, const int32_t *prefix, const int32_t *length, i64 blocks, i64 per_node, i64 queries,
                    i64 longest, i64 keys, i64 window, float scale) {
#pragma omp parallel for collapse(2) schedule(static)
    for (i64 b = 0; b < blocks; b++)
        for (i64 q = 0; q < queries; q++) {
            i64 node = b / per_node, i = q % longest;
            if (i >= length[node]) i = length[node] - 1;
            i64 last = prefix[node] + i + 1, first = window && last > window ? last - window : 0;
            number *RESTRICT s = scores + (b * queries + q) * keys;
            float top = scale * LARGEST(s + first, last - first), sum = 0;
            for (i64 k = first; k < last; k++) sum += exp_(LOAD(s[k]) * scale - top);
            float inverse = 1.0f / sum;
            for (i64 k = first; k < last; k++) s[k] = STORE(exp_(LOAD(s[k]) * scale - top) * inverse);
            memset(s, 0, first * sizeof(number));
            memset(s + last, 0, (keys - last) * sizeof(number));
        }
}

/* g = scale * p * (g - sum(g p)), in place; p is zero where a key is not seen. */
void NAME(causal_softmax_backward)(number *g, const number *p, i64 rows, i64 keys, float scale) {
#pragma omp parallel for schedule(static)
    for (i64 r = 0; r < rows; r++) {
        number *RESTRICT gr = g + r * keys;
        const number *RESTRICT pr = p + r * keys;
        float dot = 0;
        for (i64 k = 0; k < keys; k++) dot += LOAD(gr[k]) * LOAD(pr[k]);
        for (i64 k = 0; k < keys; k++) gr[k] = STORE(scale * LOAD(pr[k]) * (LOAD(gr[k]) - dot));
    }
}

/* Tokens to nodes: out (nodes, heads, group, longest, d) from rows of x (heads x group x d, `stride` apart); place -1 is
 * padding and becomes zero. */
void NAME(fold)(const number *x, const i64 *place, number *out, i64 nodes, i64 longest, i64 heads, i64 group, i64 d, i64 stride) {
#pragma omp parallel for collapse(2) schedule(static)
    for (i64 b = 0; b < nodes; b++)
        for (i64 h = 0; h < heads * group; h++) {
            number *o = out + (b * heads * group + h) * longest * d;
            for (i64 l = 0; l < longest; l++) {
                i64 t = place[b * longest + l];
                if (t < 0) memset(o + l * d, 0, d * sizeof(number));
                else memcpy(o + l * d, x + t * stride + h * d, d * sizeof(number));
            }
        }
}

/* The way back, for places that occur once. */
void NAME(unfold)(const number *x, const i64 *place, number *out, i64 nodes, i64 longest, i64 heads, i64 group, i64 d, i64 stride) {
#pragma omp parallel for collapse(2) schedule(static)
    for (i64 b = 0; b < nodes; b++)
        for (i64 h = 0; h < heads * group; h++) {
            const number *o = x + (b * heads * group + h) * longest * d;
            for (i64 l = 0; l < longest; l++) {
                i64 t = place[b * longest + l];
                if (t >= 0) memcpy(out + t * stride + h * d, o + l * d, d * sizeof(number));
            }
        }
}

/* The way back, added up in fp32 where nodes share places; heads are spread over the threads, nodes are not. */
void NAME(unfold_add)(const number *x, const i64 *place, float *sum, i64 nodes, i64 longest, i64 heads, i64 d) {
    i64 parts = d % 32 ? 1 : d / 32, n = d / parts;
#pragma omp parallel for collapse(2) schedule(static)
    for (i64 h = 0; h < heads; h++)
        for (i64 p = 0; p < parts; p++)
            for (i64 b = 0; b < nodes; b++)
                for (i64 l = 0; l < longest; l++) {
                    i64 t = place[b * longest + l];
                    if (t < 0) continue;
                    const number *RESTRICT from = x + ((b * heads + h) * longest + l) * d + p * n;
                    float *RESTRICT to = sum + (t * heads + h) * d + p * n;
                    for (i64 i = 0; i < n; i++) to[i] += LOAD(from[i]);
                }
}

/* One block of the vocabulary of a running softmax. Row by row: `top` and `sum` (of e^(x - top)) and `total` (of x) take
 * in the block's logits x, which become e^(x - top); `rescale` is what earlier blocks' terms must be multiplied by. */
void NAME(online_softmax)(number *logits, float *top, float *sum, float *total, float *rescale, i64 rows, i64 n) {
#pragma omp parallel for schedule(static)
    for (i64 r = 0; r < rows; r++) {
        number *RESTRICT x = logits + r * n;
        float here = LARGEST(x, n), high = top[r] > here ? top[r] : here;
        double added = 0, plain = 0;
        for (i64 from = 0; from < n; from += 256) { /* short sums in fp32, theirs in fp64: thousands of terms round off */
            i64 to = from + 256 < n ? from + 256 : n;
            float short_added = 0, short_plain = 0;
            for (i64 k = from; k < to; k++) short_plain += LOAD(x[k]);
            for (i64 k = from; k < to; k++) short_added += exp_(LOAD(x[k]) - high);
            plain += short_plain, added += short_added;
        }
        for (i64 k = 0; k < n; k++) x[k] = STORE(exp_(LOAD(x[k]) - high));
        rescale[r] = exp_(top[r] - high);
        sum[r] = (float)(sum[r] * rescale[r] + added);
        total[r] = (float)(total[r] + plain);
        top[r] = high;
    }
}
