/* cmd_eval.c - perplexity of a text, and how far a configuration is from another one.
 *
 * Protocol (host/model/score.h): documents separated by a blank line, each scored alone as BOS and
 * its tokens; BOS is not scored; special tokens in the text are parsed; a document longer than the
 * context is cut into pieces that each begin with BOS. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "host/base/clock.h"
#include "host/base/file.h"
#include "host/base/log.h"
#include "host/model/score.h"
#include "server/commands.h"
#include "server/load_model.h"

enum { ROWS = 128, PROGRESS_MS = 200 };

struct side {
    struct loaded loaded;
    struct scorer scorer;
    bool has_scorer;
    struct load_choice choice;
};
struct eval {
    const struct options *options;
    struct side side, base;
    bool compare;
    struct documents documents;
    int32_t n_documents; /* that are scored: all, or --limit */
    struct divergence sum;
    double seconds;
};

static void describe(const struct side *side, char *text, size_t size)
{
    static const char *const WEIGHTS[] = { [WEIGHTS_AUTO] = "as stored",
                                           [WEIGHTS_BF16] = "bf16",
                                           [WEIGHTS_INT8] = "int8",
                                           [WEIGHTS_INT4] = "int4" };
    const struct load_choice *c = &side->choice;
    char group[32] = "";
    if (c->weights == WEIGHTS_INT4 || c->weights == WEIGHTS_INT8)
        snprintf(group, sizeof group, " group %d%s", (int)c->group,
                 c->asymmetric ? " asymmetric" : "");
    snprintf(text, size, "%s, weights %s%s, %s%s", side->loaded.name, WEIGHTS[c->weights], group,
             side->loaded.be->name, c->kv == KV_INT8 ? ", int8 keys and values" : "");
}

/* Both sides are cut at the smaller context, so that they see the same pieces. */
static bool read_documents(struct eval *e, struct err *err)
{
    const struct options *o = e->options;
    const struct model *model = &e->side.loaded.model;
    int32_t ctx = model->ctx;
    char *text = NULL;
    size_t size;
    if (model->tokenizer == NULL)
        return err_set(err, ERR_UNSUPPORTED, "no text without a tokenizer: %s",
                       model->tokenizer_reason);
    if (e->compare && e->base.loaded.model.ctx < ctx)
        ctx = e->base.loaded.model.ctx;
    if (!file_read(o->text, (size_t)1 << 30, &text, &size, err))
        return false;
    bool ok = documents_read(&e->documents, model->tokenizer, model->bos, text, size, ctx, err);
    if (!ok)
        err_prefix(err, "%s", o->text);
    free(text);
    e->n_documents = e->documents.n;
    if (o->limit > 0 && o->limit < e->n_documents)
        e->n_documents = o->limit;
    return ok;
}

static bool open_scorer(struct eval *e, struct side *side, struct err *err)
{
    int32_t longest = 2;
    for (int32_t d = 0; d < e->n_documents; d++) {
        int32_t n = e->documents.starts[d + 1] - e->documents.starts[d];
        longest = n > longest ? n : longest;
    }
    side->has_scorer = scorer_open(&side->scorer, &side->loaded.model, longest, 0, err);
    return side->has_scorer;
}

static bool score_all(struct eval *e, struct err *err)
{
    uint64_t begin = clock_ns(), shown_ms = 0;
    bool terminal = isatty(STDERR_FILENO) == 1;
    for (int32_t d = 0; d < e->n_documents; d++) {
        const int32_t *ids = e->documents.ids.ids + e->documents.starts[d];
        int32_t n = e->documents.starts[d + 1] - e->documents.starts[d];
        bool ok = e->compare ? model_compare(&e->base.scorer, &e->side.scorer, ids, n, &e->sum, err)
                             : model_score(&e->side.scorer, ids, n, NULL, &e->sum.other, err);
        if (!ok) {
            err_prefix(err, "document %d", (int)d + 1);
            return false;
        }
        if (terminal && clock_ms() - shown_ms > PROGRESS_MS) {
            shown_ms = clock_ms();
            fprintf(stderr, "\r\033[Kdocument %d of %d", (int)d + 1, (int)e->n_documents);
        }
    }
    if (terminal)
        fputs("\r\033[K", stderr);
    e->seconds = (double)(clock_ns() - begin) * 1e-9;
    if (e->sum.other.n_tokens == 0)
        return err_set(err, ERR_REQUEST, "%s: nothing to score", e->options->text);
    return true;
}

static bool open_eval(struct eval *e, struct err *err)
{
    const struct options *o = e->options;
    if (o->text == NULL)
        return err_set(err, ERR_REQUEST,
                       "usage: nibble eval MODEL TEXTFILE (demo: is the embedded model)");
    e->side.choice = load_choice_of(o, ROWS);
    e->side.choice.rows_max = e->side.choice.logit_rows_max = ROWS;
    e->base.choice = e->side.choice;
    e->base.choice.model = o->base != NULL ? o->base : o->model;
    e->base.choice.weights = o->base_weights;
    e->base.choice.group = o->base_group;
    e->base.choice.asymmetric = o->base_asymmetric;
    e->base.choice.activations = o->base_activations;
    e->base.choice.kv = o->base_kv;
    return load_model(&e->side.loaded, o, &e->side.choice, err) &&
           (!e->compare || load_model(&e->base.loaded, o, &e->base.choice, err)) &&
           read_documents(e, err) && open_scorer(e, &e->side, err) &&
           (!e->compare || open_scorer(e, &e->base, err));
}

static void close_side(struct side *side)
{
    if (side->has_scorer)
        scorer_close(&side->scorer);
    load_close(&side->loaded);
}

static void print_lines(struct buf *out, const struct eval *e)
{
    char text[400];
    const struct divergence *sum = &e->sum;
    double n = (double)sum->other.n_tokens;
    buf_printf(out, "%s: %d documents, %lld tokens scored in %.1f s\n", e->options->text,
               (int)e->n_documents, (long long)sum->other.n_tokens, e->seconds);
    buf_puts(out,
             "protocol: documents between blank lines, each alone; BOS and its tokens, BOS not "
             "scored; special tokens parsed\n");
    describe(&e->side, text, sizeof text);
    buf_printf(out, "perplexity        %.5f   %s\n", score_perplexity(&sum->other), text);
    if (!e->compare)
        return;
    describe(&e->base, text, sizeof text);
    buf_printf(out, "base perplexity   %.5f   %s\n", score_perplexity(&sum->base), text);
    buf_printf(out, "KL(base || this)  %.6f mean, %.4f max (nats a token)\n", sum->kl / n,
               sum->kl_max);
    buf_printf(out, "same top-1        %.3f %%\n", 100 * (double)sum->same_top / n);
}

static void print_json(struct buf *out, const struct eval *e)
{
    char text[400];
    const struct divergence *sum = &e->sum;
    double n = (double)sum->other.n_tokens;
    buf_puts(out, "{\"text\":");
    buf_put_json_string(out, e->options->text, strlen(e->options->text));
    describe(&e->side, text, sizeof text);
    buf_puts(out, ",\"configuration\":");
    buf_put_json_string(out, text, strlen(text));
    buf_puts(out, ",\"protocol\":\"documents between blank lines, each alone; BOS and its tokens, "
                  "BOS not scored; special tokens parsed\"");
    buf_printf(out,
               ",\"documents\":%d,\"scored_tokens\":%lld,\"seconds\":%.3f,"
               "\"log_probability\":%.9g,\"perplexity\":%.9g",
               (int)e->n_documents, (long long)sum->other.n_tokens, e->seconds,
               sum->other.log_probability, score_perplexity(&sum->other));
    if (e->compare) {
        describe(&e->base, text, sizeof text);
        buf_puts(out, ",\"base\":{\"configuration\":");
        buf_put_json_string(out, text, strlen(text));
        buf_printf(out, ",\"perplexity\":%.9g},\"kl_mean\":%.9g,\"kl_max\":%.9g,\"same_top\":%.7g",
                   score_perplexity(&sum->base), sum->kl / n, sum->kl_max,
                   (double)sum->same_top / n);
    }
    buf_puts(out, "}\n");
}

int cmd_eval(const struct options *o)
{
    struct err err;
    struct buf out;
    struct eval e = { .options = o };
    int status;
    /* Any word about a base asks for the comparison. */
    e.compare = o->base != NULL || options_given(o, "base-weights") ||
                options_given(o, "base-group") || options_given(o, "base-asymmetric") ||
                options_given(o, "base-activations") || options_given(o, "base-kv");
    log_configure(LOG_WARN, false);
    buf_init(&out, 1 << 20);
    if (open_eval(&e, &err) && score_all(&e, &err)) {
        if (o->json)
            print_json(&out, &e);
        else
            print_lines(&out, &e);
        status = command_print(&out);
    } else {
        status = command_fail(&err);
    }
    buf_clear(&out);
    documents_clear(&e.documents);
    close_side(&e.side);
    close_side(&e.base);
    return status;
}
