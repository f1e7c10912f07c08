/* sampler.h - from logits to a token: the arithmetic, host form. The device form must agree.
 *
 * Order (the reference's, tests/oracle/sampling): repetition penalty over prompt and output tokens
 * (x > 0 ? x / r : x * r); x -= frequency * count(output) + presence * [count(output) > 0];
 * logit_bias added; bans; temperature (below 1e-5: the greatest logit, lowest id on a tie); top_k
 * (ties with the k-th largest stay); top_p (smallest set of most probable tokens that reaches p,
 * the one that crosses stays); min_p (p >= min_p * max p of what is left); typical_p; softmax; one
 * uniform draw u from (seed, index, position), tokens in ascending id order, in double. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "host/base/err.h"
#ifdef __cplusplus
extern "C" {
#endif

enum { SAMPLE_TOP_MAX = 20 };

struct logit_bias {
    int32_t token;
    float bias;
};
struct sample_params {
    float temperature;                         /* >= 0 */
    int32_t top_k;                             /* <= 0: off */
    float top_p;                               /* 1: off */
    float min_p;                               /* 0: off */
    float typical_p;                           /* 1: off */
    float repetition_penalty;                  /* 1: off; > 0 */
    float presence_penalty, frequency_penalty; /* 0: off */
    uint64_t seed;
    const struct logit_bias *biases; /* [n_biases], borrowed from the request */
    int32_t n_biases;
    int32_t n_top; /* log-probabilities of the n_top most likely tokens; -1: none at all */
};
/* One row of logits and what is wanted of it. */
struct sample_row {
    int32_t logit_row; /* row of the logits view */
    const struct sample_params *params;
    int32_t target;         /* >= 0: do not draw, report this token's log-probability (prompt) */
    uint64_t index;         /* which of the request's sequences: the random stream */
    int64_t position;       /* position of the token to be drawn: the random counter */
    int32_t slot;           /* of the row's sequence: the device keeps what it drew for it */
    const int32_t *history; /* [n_prompt + n_output] known tokens, for penalties; borrowed */
    int32_t n_prompt, n_output;
    bool in_flight; /* the last of the history is what was drawn for `slot` before: its value is not
                       there yet. Only where the backend keeps such tokens (steps_max 2) */
    const int32_t *banned; /* [n_banned] tokens with probability 0 in this step */
    int32_t n_banned;
    const uint32_t *mask; /* bit per token, 1 = allowed; NULL: all (grammars) */
};
/* Log-probabilities are of the raw logits (before penalties, bias, temperature), natural log. */
struct sample_out {
    int32_t token; /* drawn, or `target` */
    float logprob; /* of `token`; 0 when n_top < 0 */
    int32_t n_top;
    int32_t top_tokens[SAMPLE_TOP_MAX]; /* most likely first, lower id first on a tie */
    float top_logprobs[SAMPLE_TOP_MAX];
};

struct sampler; /* scratch for one thread: O(vocab) */
MUST_USE bool sampler_open(struct sampler **sampler, int32_t vocab, struct err *err);
void sampler_close(struct sampler *sampler);
/* `logits` [vocab] is not changed. All-NaN or a row with every token excluded: token -1 (the caller
 * treats it as a device fault). Never allocates. */
void sampler_row(struct sampler *sampler, const float *logits, const struct sample_row *row,
                 struct sample_out *out);
/* The probabilities that sampler_row draws from, probs[vocab]; for tests. */
void sampler_probs(struct sampler *sampler, const float *logits, const struct sample_row *row,
                   double *probs);
/* Neutral: temperature 1, everything off. */
struct sample_params sample_params_neutral(void);
#ifdef __cplusplus
}
#endif
