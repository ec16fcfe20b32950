/* What the threads of a step share, what each has for itself, and how they wait for each other: for decode.c. */
#include <omp.h>
#include <sched.h>

/* Rows of an adapter's A of a piece of work. */
#define RANKS 8
#define PHASES_LAYER 12

/* What all threads see. `in`: the input of the projection to come; strides are in numbers.
 * `in_half`, `act_half`: the same in bf16, where products are formed of pairs. */
typedef struct {
    const model *m;
    const step *s;
    i64 in_step, act_step, qkv_step, z_part, z_step, scratch;
    float *x, *in, *act, *qkv, *z;
    bf16 *in_half, *act_half;
    int *counter, *arrived, *turn;
    char *own;
    int threads;
} shared;

/* What one thread works in. */
typedef struct {
    const shared *all;
    int *counter;
    float *y, *panel, *extra, *scores;
} worker;

static void *take(char *block, i64 *used, i64 bytes) {
    void *here = block ? block + *used : NULL;
    *used += up(bytes, LINE);
    return here;
}

/* An odd number of cache lines: rows of a tile do not push each other out. */
INLINE i64 apart(i64 n) { return (up(n, 16) / 16 | 1) * 16; }

static i64 cut_own(const shared *a, char *block, worker *w) {
    const model *m = a->m;
    const step *s = a->s;
    i64 used = 0, n = s->tokens, widest = most(m->inner, most(m->hidden, m->heads * m->d));
    w->y = take(block, &used, n * 2 * CHUNK * 4);
    w->extra = take(block, &used, s->rank ? n * RANKS * 4 : 0);
    w->panel = take(block, &used, s->rank ? most(CHUNK * s->rank, RANKS * widest) * 4 : 0);
    w->scores = take(block, &used, HEADS * up(s->keys + PAGE, PAGE) * 4);
    return used;
}

/* Cut the memory of a step up; without a block, only count it. */
static i64 cut(shared *a, const model *m, const step *s, char *block) {
    i64 used = 0, n = s->tokens, phases = m->depth * PHASES_LAYER + 4;
    *a = (shared){.m = m, .s = s, .threads = (int)s->threads};
    a->in_step = apart(most(m->hidden, m->heads * m->d)), a->act_step = apart(m->inner);
    a->qkv_step = (m->heads + 2 * m->groups) * m->d;
    a->z_part = up(s->rank, LANES), a->z_step = 3 * a->z_part;
    a->counter = take(block, &used, phases * sizeof(int));
    a->arrived = take(block, &used, LINE), a->turn = take(block, &used, LINE);
    if (block) memset(block, 0, used);
    a->x = take(block, &used, n * m->hidden * 4), a->in = take(block, &used, n * a->in_step * 4);
    a->act = take(block, &used, n * a->act_step * 4), a->qkv = take(block, &used, n * a->qkv_step * 4);
    if (PAIRS && m->half) {
        a->in_half = take(block, &used, n * a->in_step * 2), a->act_half = take(block, &used, n * a->act_step * 2);
    }
    a->z = take(block, &used, n * a->z_step * 4);
    worker none;
    a->scratch = cut_own(a, NULL, &none);
    a->own = take(block, &used, a->scratch * s->threads);
    return used;
}

/* The next piece of this phase. */
INLINE i64 next(const worker *w) { return __atomic_fetch_add(w->counter, 1, __ATOMIC_RELAXED); }

INLINE void pause_(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* The end of a phase: wait for the others. */
static void meet(worker *w) {
    const shared *a = w->all;
    w->counter++;
    if (a->threads == 1) return;
    int turn = __atomic_load_n(a->turn, __ATOMIC_RELAXED);
    if (__atomic_add_fetch(a->arrived, 1, __ATOMIC_ACQ_REL) == a->threads) {
        __atomic_store_n(a->arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(a->turn, turn + 1, __ATOMIC_RELEASE);
        return;
    }
    for (int spun = 0; __atomic_load_n(a->turn, __ATOMIC_ACQUIRE) == turn; spun++) {
        if (spun < 1000) pause_();
        else sched_yield();
    }
}
