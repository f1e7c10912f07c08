/* seq.c - the sequences of a request, in one allocation made by the thread that submits. */
#include "host/engine/seq.h"
#include <stdlib.h>
#include <string.h>

bool run_open(struct request *request, const int32_t *eos, int32_t n_eos, struct err *err)
{
    CHECK(request->engine_private == NULL);
    int32_t n_eos_banned = request->ignore_eos ? 0 : n_eos;
    size_t n_banned = (size_t)n_eos_banned + (size_t)request->n_stop_tokens;
    size_t seqs_bytes = sizeof(struct run) + (size_t)request->n_seqs * sizeof(struct seq);
    size_t bytes;
    if (__builtin_mul_overflow(n_banned, sizeof(int32_t), &bytes) ||
        __builtin_add_overflow(bytes, seqs_bytes, &bytes))
        return err_set(err, ERR_MEMORY, "too many stop tokens");
    struct run *run = calloc(1, bytes);
    if (!run)
        return err_set(err, ERR_MEMORY, "no memory for %d sequences", request->n_seqs);
    run->request = request;
    run->score_params = sample_params_neutral();
    if (request->prompt_logprobs)
        run->score_params.n_top = request->prompt_logprobs->n_top;
    run->banned = (int32_t *)(void *)((char *)run + seqs_bytes);
    run->n_banned = (int32_t)n_banned;
    if (n_eos_banned > 0)
        memcpy(run->banned, eos, (size_t)n_eos_banned * sizeof *eos);
    if (request->n_stop_tokens > 0)
        memcpy(run->banned + n_eos_banned, request->stop_tokens,
               (size_t)request->n_stop_tokens * sizeof *eos);
    for (int32_t i = 0; i < request->n_seqs; i++) {
        int32_t limit = request->n_prompt + request->max_tokens;
        run->seqs[i] = (struct seq){
            .run = run,
            .outbox = &request->outboxes[i],
            .index = i,
            .slot = -1,
            .item = -1,
            .priority = request->priority,
            .n_prompt = request->n_prompt,
            .limit = limit,
            .end = request->max_tokens == 0 ? limit : limit - 1,
            .known = request->n_prompt,
            .n_tokens = request->n_prompt,
            .tokens = request->prompt,
            .scores = i == 0 && request->prompt_logprobs != NULL,
            .n_scored = 1,
            .kind = { .salt = request->salt },
        };
    }
    request->engine_private = run;
    return true;
}

void run_close(struct request *request)
{
    free(request->engine_private);
    request->engine_private = NULL;
}
