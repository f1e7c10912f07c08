/* score.c - teacher-forced scoring of token lists, in chunks. Used by `nibble eval` and the tests;
 * one thread at a time per backend. */
#include "host/model/score.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "host/base/pool.h"

bool scorer_open(struct scorer *scorer, struct model *model, int32_t tokens_max, int32_t chunk,
                 struct err *err)
{
    *scorer = (struct scorer){ .model = model, .kv = model->kv_shape, .tokens_max = tokens_max };
    int32_t most =
        model->rows_max < model->logit_rows_max ? model->rows_max : model->logit_rows_max;
    scorer->chunk = chunk > 0 && chunk < most ? chunk : most;
    if (tokens_max < 2 || tokens_max > model->ctx)
        return err_set(err, ERR_REQUEST, "documents of %d tokens: the model takes 2 to %d",
                       tokens_max, model->ctx);
    int32_t n_pages[KV_GROUPS_MAX];
    for (int32_t g = 0; g < KV_GROUPS_MAX; g++)
        n_pages[g] = kv_pages_for(tokens_max);
    if (!kv_cache_reserve(&scorer->kv, model->be, n_pages, err))
        return false;
    if (!model->be->host_memory) {
        scorer->logits =
            malloc((size_t)scorer->chunk * (size_t)model->vocab * sizeof *scorer->logits);
        if (scorer->logits == NULL)
            return err_set(err, ERR_MEMORY, "no memory for %d rows of logits", scorer->chunk);
    }
    if (batch_single_init(&scorer->single, scorer->chunk, tokens_max, scorer->kv.n_groups, err))
        return true;
    free(scorer->logits);
    return false;
}

void scorer_close(struct scorer *scorer)
{
    batch_single_clear(&scorer->single);
    free(scorer->logits);
    *scorer = (struct scorer){ 0 };
}

double score_perplexity(const struct score *score)
{
    return exp(-score->log_probability / (double)score->n_tokens);
}

/* ---- rows of logits on the threads of the pool ------------------------------------------------
 */

struct rows {
    struct view logits, other; /* other.data NULL: a score alone */
    const int32_t *targets;    /* [n] the token behind each row */
    int32_t n, vocab;
    double *log_p, *log_q, *kl; /* [n] */
    bool *same;                 /* [n] */
};

/* log of the sum of exp; NaN when a logit is NaN or +Inf. */
static double log_sum(const float *logits, int32_t n, int32_t *top)
{
    float most = logits[0];
    *top = 0;
    for (int32_t i = 1; i < n; i++)
        if (logits[i] > most) {
            most = logits[i];
            *top = i;
        }
    double sum = 0;
    for (int32_t i = 0; i < n; i++)
        sum += exp((double)logits[i] - (double)most);
    return (double)most + log(sum);
}

static void score_rows(void *arg, int32_t part, int32_t n_parts)
{
    struct rows *rows = arg;
    int64_t from, to;
    pool_share(rows->n, 1, part, n_parts, &from, &to);
    for (int32_t r = (int32_t)from; r < (int32_t)to; r++) {
        int32_t top, other_top;
        const float *p = view_row(rows->logits, r);
        const double log_z = log_sum(p, rows->vocab, &top);
        rows->log_p[r] = (double)p[rows->targets[r]] - log_z;
        if (rows->other.data == NULL)
            continue;
        const float *q = view_row(rows->other, r);
        const double other_log_z = log_sum(q, rows->vocab, &other_top);
        rows->log_q[r] = (double)q[rows->targets[r]] - other_log_z;
        rows->same[r] = top == other_top;
        double kl = 0;
        for (int32_t i = 0; i < rows->vocab; i++) {
            const double log_p = (double)p[i] - log_z;
            kl += exp(log_p) * (log_p - ((double)q[i] - other_log_z));
        }
        rows->kl[r] = kl;
    }
}

/* ---- scoring ----------------------------------------------------------------------------------
 */

static bool check_ids(const struct scorer *scorer, const int32_t *ids, int32_t n, struct err *err)
{
    if (n < 1 || n > scorer->tokens_max)
        return err_set(err, ERR_REQUEST, "a document of %d tokens, want 1 to %d", n,
                       scorer->tokens_max);
    for (int32_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= scorer->model->vocab)
            return err_set(err, ERR_REQUEST, "token id %d is outside the vocabulary of %d", ids[i],
                           scorer->model->vocab);
    return true;
}

/* Runs rows [from, from + n) and gives their logits in host memory. */
static bool run_chunk(struct scorer *scorer, const int32_t *ids, int32_t n, int32_t from,
                      struct view *logits, struct err *err)
{
    struct model *model = scorer->model;
    struct backend *be = model->be;
    const struct batch *batch = batch_single_build(&scorer->single, ids + from, n, from, true);
    model_forward(model, batch, &scorer->kv, NULL, NULL, NULL);
    *logits = view_head(model->logits, n);
    if (scorer->logits != NULL) {
        be->ops->download(be, scorer->logits, logits->data,
                          (size_t)n * (size_t)model->vocab * sizeof *scorer->logits);
        *logits = view_of(scorer->logits, DTYPE_F32, n, model->vocab);
    }
    return be->ops->finish(be, err);
}

static bool add_rows(struct divergence *sum, const struct rows *rows, int32_t from,
                     double *log_probabilities, struct err *err)
{
    const bool both = rows->other.data != NULL;
    for (int32_t r = 0; r < rows->n; r++) {
        if (!isfinite(rows->log_p[r]) || (both && !isfinite(rows->log_q[r])))
            return err_set(err, ERR_DEVICE, "logits at position %d are not finite", from + r);
        sum->base.log_probability += rows->log_p[r];
        sum->base.n_tokens++;
        if (log_probabilities != NULL)
            log_probabilities[from + r] = rows->log_p[r];
        if (!both)
            continue;
        sum->other.log_probability += rows->log_q[r];
        sum->other.n_tokens++;
        sum->kl += rows->kl[r];
        sum->kl_max = rows->kl[r] > sum->kl_max ? rows->kl[r] : sum->kl_max;
        sum->same_top += rows->same[r];
        sum->n_tokens++;
    }
    return true;
}

/* `other` NULL: a score alone. */
static bool run(struct scorer *base, struct scorer *other, const int32_t *ids, int32_t n,
                double *log_probabilities, struct divergence *sum, struct err *err)
{
    struct pool *pool = base->model->be->pool;
    const int32_t chunk = other != NULL && other->chunk < base->chunk ? other->chunk : base->chunk;
    struct rows rows = { .vocab = base->model->vocab };
    double *values = calloc((size_t)chunk, 3 * sizeof *values);
    rows.same = calloc((size_t)chunk, sizeof *rows.same);
    bool ok = values != NULL && rows.same != NULL;
    if (ok) {
        rows.log_p = values;
        rows.log_q = values + chunk;
        rows.kl = values + 2 * (size_t)chunk;
    } else {
        err_set(err, ERR_MEMORY, "no memory to score %d rows", chunk);
    }
    base->single.rope_variant = model_rope_variant(base->model, n);
    if (other != NULL)
        other->single.rope_variant = model_rope_variant(other->model, n);
    /* The last token predicts nothing that is known. */
    for (int32_t from = 0; ok && from < n - 1; from += chunk) {
        const int32_t left = n - 1 - from;
        rows.n = left < chunk ? left : chunk;
        rows.targets = ids + from + 1;
        ok = run_chunk(base, ids, rows.n, from, &rows.logits, err) &&
             (other == NULL || run_chunk(other, ids, rows.n, from, &rows.other, err));
        if (ok && pool != NULL)
            pool_run(pool, score_rows, &rows);
        else if (ok)
            score_rows(&rows, 0, 1);
        ok = ok && add_rows(sum, &rows, from, log_probabilities, err);
    }
    free(values);
    free(rows.same);
    return ok;
}

bool model_score(struct scorer *scorer, const int32_t *ids, int32_t n, double *log_probabilities,
                 struct score *score, struct err *err)
{
    struct divergence sum = { .base = *score };
    if (!check_ids(scorer, ids, n, err) || !run(scorer, NULL, ids, n, log_probabilities, &sum, err))
        return false;
    *score = sum.base;
    return true;
}

bool model_compare(struct scorer *base, struct scorer *other, const int32_t *ids, int32_t n,
                   struct divergence *divergence, struct err *err)
{
    if (base->model->vocab != other->model->vocab)
        return err_set(err, ERR_REQUEST, "vocabularies of %d and %d cannot be compared",
                       base->model->vocab, other->model->vocab);
    struct divergence sum = *divergence;
    if (!check_ids(base, ids, n, err) || !check_ids(other, ids, n, err) ||
        !run(base, other, ids, n, NULL, &sum, err))
        return false;
    *divergence = sum;
    return true;
}

/* ---- documents --------------------------------------------------------------------------------
 */

static bool no_memory(struct err *err)
{
    return err_set(err, ERR_MEMORY, "no memory for the documents");
}

static bool add_start(struct documents *documents, size_t start, int32_t *capacity, struct err *err)
{
    if (start > INT32_MAX - 1)
        return err_set(err, ERR_TOO_LARGE, "more than %d tokens", INT32_MAX - 1);
    if (documents->n + 1 >= *capacity) {
        const int32_t more = *capacity < 64 ? 64 : 2 * *capacity;
        int32_t *starts = realloc(documents->starts, (size_t)more * sizeof *starts);
        if (starts == NULL)
            return no_memory(err);
        documents->starts = starts;
        *capacity = more;
    }
    documents->starts[documents->n] = (int32_t)start;
    return true;
}

/* One document's tokens as pieces of at most ctx, each with the same first token. */
static bool add_document(struct documents *documents, const struct ids *tokens, int32_t ctx,
                         int32_t bos, int32_t *capacity, struct err *err)
{
    const bool has_bos = tokens->n > 0 && tokens->ids[0] == bos;
    size_t at = has_bos ? 1 : 0;
    do {
        if (!add_start(documents, documents->ids.n, capacity, err))
            return false;
        int32_t room = ctx;
        if (bos >= 0) {
            if (!ids_push(&documents->ids, bos))
                return no_memory(err);
            room--;
        }
        for (; room > 0 && at < tokens->n; room--, at++)
            if (!ids_push(&documents->ids, tokens->ids[at]))
                return no_memory(err);
        documents->n++;
        documents->starts[documents->n] = (int32_t)documents->ids.n;
    } while (at < tokens->n);
    return true;
}

bool documents_read(struct documents *documents, const struct tokenizer *tokenizer, int32_t bos,
                    const char *text, size_t length, int32_t ctx, struct err *err)
{
    *documents = (struct documents){ 0 };
    int32_t capacity = 0;
    struct ids tokens = { 0 };
    CHECK(ctx >= 2);
    while (length > 0 && text[length - 1] == '\n') /* ends of lines at the end of the file */
        length--;
    for (size_t at = 0; at < length;) {
        const char *blank = memmem(text + at, length - at, "\n\n", 2);
        const size_t end = blank == NULL ? length : (size_t)(blank - text);
        tokens.n = 0;
        if (end > at &&
            (!tokenizer_encode(tokenizer, text + at, end - at,
                               ENCODE_ADD_SPECIAL | ENCODE_PARSE_SPECIAL, NULL, 0, &tokens, err) ||
             !add_document(documents, &tokens, ctx, bos, &capacity, err)))
            goto fail;
        at = end + 2;
    }
    if (documents->ids.n < 2) {
        err_set(err, ERR_REQUEST, "the text has nothing to score");
        goto fail;
    }
    ids_clear(&tokens);
    return true;
fail:
    ids_clear(&tokens);
    documents_clear(documents);
    return false;
}

void documents_clear(struct documents *documents)
{
    ids_clear(&documents->ids);
    free(documents->starts);
    *documents = (struct documents){ 0 };
}
