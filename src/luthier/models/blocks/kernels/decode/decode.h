/* What decode.c is told: all fields are eight bytes wide, and decode.py lays them out alike. */

/* [out][in] in one of the kinds of products.h; `scale`: of each row, where it is in int8. */
typedef struct {
    const char *at;
    const void *bias;
    const float *scale;
    i64 kind, out, in;
} matrix;

/* y += scale (x down^T) up^T; rank 0 is none. `lines`: of how many outputs `up` lies as [rank][outputs]; 0 where it lies
 * as torch holds it, [outputs][rank]. */
typedef struct {
    const char *down, *up;
    i64 down_kind, up_kind, lines, rank;
    double scale;
} lora;

enum { Q, K, V, O, GATE, UP, DOWN, PARTS };

typedef struct {
    matrix part[PARTS];
    const void *norm[2], *head_norm[2];
    double eps[2], scale;
    i64 window;
} layer;

/* half: numbers are bf16, and are rounded to it where the training blocks round. */
typedef struct {
    i64 half, hidden, inner, heads, groups, d, depth, vocabulary;
    const char *embedding;
    const void *norm;
    double eps;
    matrix head;
    const layer *layers;
    const float *cos, *sin; /* position, d */
} model;

/* Tokens with one adapter: member[first ..]; `at`: PARTS of each layer, then the head. */
typedef struct {
    const lora *at;
    i64 first, count;
} group;

/* `page_of`: where each token's sequence begins in `page`; `want`: the tokens whose logits are wanted; `rank`: the
 * highest of all adapters; `keys`: the most that a token sees. The head's groups count among those wanted. */
typedef struct {
    i64 tokens, wanted, groups, head_groups, threads, rank, keys;
    const i64 *id, *position, *page_of;
    char *const *page;
    const int32_t *want, *member, *head_member;
    const group *group, *head_group;
    float *logits;
    char *space;
} step;
