/* request.c - making and freeing a request.
 *
 * Invariant: everything that the request points to, but `owner` and `engine_private`, is its own
 * and goes with request_close. Called by prep workers and the http thread, never by the engine. */
#include "host/engine/request.h"
#include <stdlib.h>

bool request_open(struct request **request, int32_t *prompt, int32_t n_prompt, int32_t n_seqs,
                  int32_t n_top, struct err *err)
{
    CHECK(prompt != NULL && n_prompt >= 1);
    CHECK(n_seqs >= 1 && n_seqs <= SEQS_PER_REQUEST_MAX);
    CHECK(n_top >= -1 && n_top <= SAMPLE_TOP_MAX);
    *request = NULL;
    struct request *r = calloc(1, sizeof *r);
    if (!r)
        goto fail;
    r->n_seqs = n_seqs;
    r->outboxes = calloc((size_t)n_seqs, sizeof *r->outboxes);
    if (!r->outboxes)
        goto fail;
    for (int32_t i = 0; i < n_seqs; i++) {
        spsc_init(&r->outboxes[i].ring, OUTBOX_EVENTS);
        if (n_top <= 0)
            continue;
        r->outboxes[i].tops = calloc((size_t)OUTBOX_EVENTS * (size_t)n_top, sizeof(struct top));
        if (!r->outboxes[i].tops)
            goto fail;
    }
    r->sampling = sample_params_neutral();
    r->sampling.n_top = n_top;
    r->n_top = n_top;
    r->prompt = prompt; /* last: on failure it stays the caller's */
    r->n_prompt = n_prompt;
    *request = r;
    return true;
fail:
    request_close(r);
    return err_set(err, ERR_MEMORY, "no memory for a request of %d sequences", n_seqs);
}

void request_close(struct request *request)
{
    if (!request)
        return;
    for (int32_t i = 0; request->outboxes && i < request->n_seqs; i++)
        free(request->outboxes[i].tops);
    free(request->outboxes);
    if (request->prompt_logprobs) {
        free(request->prompt_logprobs->logprobs);
        free(request->prompt_logprobs->tops);
        free(request->prompt_logprobs);
    }
    free(request->stop_tokens);
    free(request->prompt);
    free(request);
}
