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
    float bias; /* -infinity: never */
};
/* A step of a chain. BIASES is no name of a request's; the others are what llama.cpp calls
 * penalties, dry, temperature, top_n_sigma, top_k, top_p, min_p, typ_p, xtc. */
enum sample_stage {
    STAGE_PENALTIES,
    STAGE_DRY,
    STAGE_BIASES,
    STAGE_TEMPERATURE,
    STAGE_TOP_N_SIGMA,
    STAGE_TOP_K,
    STAGE_TOP_P,
    STAGE_MIN_P,
    STAGE_TYPICAL,
    STAGE_XTC,
    SAMPLE_STAGES
};
struct token_run {
    const int32_t *ids; /* [n], n >= 1 */
    int32_t n;
};
/* What sample_params lacks: llama.cpp's samplers and their order, and what looks at more of the
 * history than how often a token is there. Host form only. Formulas: sampler_chain.c. All that it
 * points to is borrowed from the request. */
struct sample_chain {
    enum sample_stage stages[SAMPLE_STAGES]; /* [n_stages], in the order they are applied */
    int32_t n_stages;
    /* windowed: penalties look at the last last_n tokens of prompt and output (-1: all) and count
     * the prompt's as the output's (llama.cpp's repeat_last_n). Else as in sample_params. */
    bool windowed;
    int32_t last_n;
    float dynatemp_range, dynatemp_exponent; /* range 0: off */
    float top_n_sigma;                       /* <= 0: off */
    float xtc_probability, xtc_threshold;    /* probability 0 or threshold over 0.5: off */
    int32_t min_keep;                        /* top_p, min_p, typical_p and xtc leave so many */
    float dry_multiplier, dry_base;          /* multiplier 0: off */
    int32_t dry_allowed_length;
    int32_t dry_last_n;                      /* tokens looked at, -1: all; never over 6 * vocab */
    const uint32_t *dry_breaks;              /* bit per token that ends a repetition, or NULL */
    const struct token_run *dry_breaks_long; /* [n_dry_breaks_long]: runs that do, ascending by
                                                their first id */
    int32_t n_dry_breaks_long;
    const struct token_run *bad_words; /* [n_bad_words] of two tokens or more: the last may not
                                          follow the others at the end of the output */
    int32_t n_bad_words;
    int32_t mirostat; /* 0 off, 1, 2: after the stages */
    float mirostat_tau, mirostat_eta;
};
/* What a chain keeps of a sequence from one token to the next; zero at its beginning. */
struct sample_state {
    bool begun;
    double mu; /* mirostat's bound on surprise, in bits */
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
    const uint32_t *allowed;          /* bit per token, 1 = allowed; NULL: all; borrowed */
    const struct sample_chain *chain; /* NULL: the order above; borrowed */
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
    const uint32_t *mask;       /* bit per token, 1 = allowed; NULL: all (grammars) */
    struct sample_state *state; /* of the row's sequence, changed by its draw; only with a chain
                                   that has mirostat, else NULL will do */
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
/* The probabilities that sampler_row draws from, probs[vocab]; for tests. Changes no state. */
void sampler_probs(struct sampler *sampler, const float *logits, const struct sample_row *row,
                   double *probs);
/* Neutral: temperature 1, everything off. */
struct sample_params sample_params_neutral(void);
#ifdef __cplusplus
}
#endif
