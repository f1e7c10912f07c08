/* seq.h - one sequence of a request: its counts, and where it stands.
 *
 * Counts, all in tokens of the sequence (prompt and output together):
 *
 *   computed <= planned <= known          n_tokens <= known <= limit
 *
 *   known     tokens that exist, or will when the steps in flight are done
 *   n_tokens  of these, the values the host has: tokens[0 .. n_tokens)
 *   planned   positions that were handed to steps
 *   computed  of these, committed: their keys and values are in the pages
 *
 * A row at position p reads token p. The row that makes planned equal to known draws the next
 * token, so `known` grows by one when it is planned, n_tokens when it is committed. Positions from
 * `end` on are never computed: nobody reads what follows the last token.
 *
 * A `run` holds the sequences of one request; it is made by the thread that submits and hangs on
 * request->engine_private until the request goes back. Engine thread only in between. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "host/engine/prefix_cache.h"
#include "host/engine/request.h"

struct grammar_state;

enum seq_state { SEQ_WAITING, SEQ_LIVE, SEQ_DONE };

struct seq {
    struct run *run;       /* the siblings */
    struct outbox *outbox; /* borrowed from the request */
    enum seq_state state;
    int32_t index; /* which of the request's sequences; 0 is the leader */
    int32_t slot;  /* -1 unless LIVE */
    int32_t priority;
    uint64_t serial; /* order of arrival; no two are equal */

    int32_t n_prompt, limit; /* limit: n_prompt + max_tokens */
    int32_t end;             /* positions to compute: max(n_prompt, limit - 1) */
    int32_t known, planned, computed, n_tokens;
    int32_t *tokens; /* the request's prompt while WAITING, the slot's memory while LIVE */

    bool scores;      /* the prompt's log-probabilities are wanted */
    int32_t n_scored; /* tokens [1, n_scored) of the prompt have theirs, or are planned to */

    struct grammar_state *grammar; /* behind its n_tokens; owned, NULL: none */
    struct sample_state sample;    /* of its chain; changed by each token that is drawn */

    uint32_t epoch;       /* grows when preempted: rows in flight then count for nothing */
    int32_t item;         /* place in the plan being made, -1: none */
    uint64_t last_plan;   /* serial of the last plan with rows of it */
    uint64_t blocked_ns;  /* since when its reader leaves no room; 0: it does not */
    bool started;         /* was planned once */
    bool prompt_computed; /* the prompt's full pages are published, or never will be */

    struct page_kind kind;
    struct page_name name; /* of page n_named - 1 */
    int32_t n_named;       /* full pages that were offered to the prefix cache, hits included */

    struct seq *prev, *next; /* the waiting list */
};

struct run {
    struct request *request;
    int32_t n_done;   /* sequences that have ended */
    int32_t n_flying; /* items of it in steps that run: these read its params */
    bool done;        /* the reader may have it: under the news lock */
    bool touched;     /* in the list of requests with events of this step */
    struct run *touched_next;
    struct sample_params score_params; /* for the prompt's own log-probabilities */
    int32_t *banned;                   /* [n_banned] below min_tokens; in this allocation */
    int32_t n_banned;
    struct seq seqs[]; /* [request->n_seqs] */
};

/* Makes the sequences of a request and hangs them on engine_private. Frees nothing of the request
 * on failure. eos: the model's, banned with the stop tokens while there are fewer than min_tokens,
 * unless ignore_eos. */
MUST_USE bool run_open(struct request *request, const int32_t *eos, int32_t n_eos, struct err *err);
/* Frees the run and clears engine_private. */
void run_close(struct request *request);

/* Nothing of it will be touched again. */
static inline bool run_is_over(const struct run *run)
{
    return run->n_done == run->request->n_seqs && run->n_flying == 0;
}
/* Rows that it could be handed now. */
static inline int32_t seq_to_go(const struct seq *seq)
{
    int32_t upto = seq->known < seq->end ? seq->known : seq->end;
    return upto - seq->planned;
}
static inline bool seq_is_cancelled(const struct seq *seq)
{
    const struct request *request = seq->run->request;
    return atomic_load_explicit(&request->cancelled, memory_order_relaxed) ||
           atomic_load_explicit(&request->seq_cancelled[seq->index], memory_order_relaxed);
}
/* Room for the tokens in flight, one more, and EVENT_DONE, which always fits. */
static inline bool seq_has_room(const struct seq *seq)
{
    return (int32_t)spsc_room(&seq->outbox->ring) >= seq->known - seq->n_tokens + 2;
}
/* True when a goes before b: lower priority value, then earlier arrival. */
static inline bool seq_before(const struct seq *a, const struct seq *b)
{
    return a->priority != b->priority ? a->priority < b->priority : a->serial < b->serial;
}
