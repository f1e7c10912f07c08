/* score.h - how well a model predicts a text: log-probabilities, perplexity, divergence.
 *
 * Protocol of `nibble eval`: documents are separated by a blank line; text of special tokens in
 * them is parsed. Each document is scored alone, as what the tokenizer puts in front (BOS) plus its
 * tokens; where it puts nothing and the model has a BOS, that. The first token is not scored. A
 * document longer than the context is cut into pieces that each begin with the same BOS.
 * Log-probabilities are natural, of the raw logits, log-sum-exp in double. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "host/backend/batch.h"
#include "host/model/model.h"

/* A model with pages for one sequence: what scoring runs on. */
struct scorer {
    struct model *model; /* borrowed */
    struct kv_cache kv;  /* pages in backend memory, for `tokens_max` */
    struct batch_single single;
    float *logits;      /* [chunk][vocab] where the backend's memory is not ours to read, owned */
    int32_t tokens_max; /* of a document */
    int32_t chunk;      /* rows of a step */
};
/* Pages are reserved in the backend and stay until its close: one scorer a backend. `chunk` rows a
 * step, 0: as many as the model was opened for. */
MUST_USE bool scorer_open(struct scorer *scorer, struct model *model, int32_t tokens_max,
                          int32_t chunk, struct err *err);
void scorer_close(struct scorer *scorer);

struct score {
    double log_probability; /* sum over the scored tokens */
    int64_t n_tokens;
};
double score_perplexity(const struct score *score);
/* ids[0..n): adds log p(ids[i] | ids[0..i)) for i = 1..n-1. `log_probabilities` [n - 1] takes the
 * single values, or is NULL. ERR_REQUEST: an id outside the vocabulary, or n over tokens_max;
 * ERR_DEVICE: logits that are not finite, or what finish() says. */
MUST_USE bool model_score(struct scorer *scorer, const int32_t *ids, int32_t n,
                          double *log_probabilities, struct score *score, struct err *err);

/* Two models on the same tokens. */
struct divergence {
    double kl;        /* sum of KL(base || other) in nats */
    double kl_max;    /* the largest of a position */
    int64_t same_top; /* positions with the same most likely token (lowest id on a tie) */
    int64_t n_tokens;
    struct score base, other;
};
/* As model_score on both; their vocabularies must be equal. */
MUST_USE bool model_compare(struct scorer *base, struct scorer *other, const int32_t *ids,
                            int32_t n, struct divergence *divergence, struct err *err);

/* A text cut into documents by the protocol. */
struct documents {
    struct ids ids;
    int32_t *starts; /* [n + 1] into ids, owned */
    int32_t n;
};
/* `ctx`: the longest piece. ERR_REQUEST when there is nothing to score. */
MUST_USE bool documents_read(struct documents *documents, const struct tokenizer *tokenizer,
                             int32_t bos, const char *text, size_t length, int32_t ctx,
                             struct err *err);
void documents_clear(struct documents *documents);
