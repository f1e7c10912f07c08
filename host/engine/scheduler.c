/* scheduler.c - plan, commit, drop. The rule is in scheduler.h.
 *
 * Invariants: order[0..n_live) is sorted and holds exactly the sequences in slots; the waiting list
 * is sorted; a sequence that is not live holds no pages; one that has planned == 0 holds none. */
#include "host/engine/scheduler.h"
#include <stdlib.h>
#include <string.h>

bool plan_init(struct plan *plan, int32_t n_slots, struct err *err)
{
    *plan = (struct plan){ .items = calloc((size_t)n_slots, sizeof *plan->items) };
    return plan->items || err_set(err, ERR_MEMORY, "no memory for a plan of %d sequences", n_slots);
}

void plan_clear(struct plan *plan)
{
    free(plan->items);
    *plan = (struct plan){ 0 };
}

bool scheduler_init(struct scheduler *s, struct kv_pool *pool, struct prefix_cache *cache,
                    int32_t n_slots, int32_t ctx, int32_t logit_rows_max, struct err *err)
{
    CHECK(n_slots >= 1 && n_slots <= pool->n_slots && ctx >= 2 && logit_rows_max >= 2);
    CHECK(kv_pages_for(ctx) <= pool->n_pages_seq);
    *s = (struct scheduler){ .pool = pool,
                             .cache = cache,
                             .n_slots = n_slots,
                             .ctx = ctx,
                             .logit_rows_max = logit_rows_max,
                             .next_serial = 1,
                             .next_plan = 1 };
    size_t n = (size_t)n_slots;
    s->tokens = calloc(n * (size_t)ctx, sizeof *s->tokens); /* zero on demand */
    s->slots = calloc(n, sizeof *s->slots);
    s->free_slots = calloc(n, sizeof *s->free_slots);
    s->order = calloc(n, sizeof *s->order);
    s->ones = calloc(n, sizeof *s->ones);
    if (!s->tokens || !s->slots || !s->free_slots || !s->order || !s->ones)
        goto fail;
    for (int32_t i = 0; i < n_slots; i++)
        s->free_slots[i] = n_slots - 1 - i;
    s->n_free_slots = n_slots;
    return true;
fail:
    scheduler_clear(s);
    return err_set(err, ERR_MEMORY, "no memory for %d sequences of %d tokens", n_slots, ctx);
}

void scheduler_clear(struct scheduler *s)
{
    free(s->tokens);
    free(s->slots);
    free(s->free_slots);
    free(s->order);
    free(s->ones);
    *s = (struct scheduler){ 0 };
}

/* ---- the two lists ---- */

void scheduler_add(struct scheduler *s, struct seq *seq)
{
    CHECK(seq->slot < 0 && seq->limit <= s->ctx);
    seq->serial = s->next_serial++;
    seq->state = SEQ_WAITING;
    struct seq *after = s->waiting_last; /* the usual case: at the end */
    while (after && seq_before(seq, after))
        after = after->prev;
    seq->prev = after;
    seq->next = after ? after->next : s->waiting_first;
    *(seq->prev ? &seq->prev->next : &s->waiting_first) = seq;
    *(seq->next ? &seq->next->prev : &s->waiting_last) = seq;
    s->n_waiting++;
}

static void waiting_remove(struct scheduler *s, struct seq *seq)
{
    *(seq->prev ? &seq->prev->next : &s->waiting_first) = seq->next;
    *(seq->next ? &seq->next->prev : &s->waiting_last) = seq->prev;
    seq->prev = seq->next = NULL;
    s->n_waiting--;
}

static void order_remove(struct scheduler *s, const struct seq *seq)
{
    int32_t i = 0;
    while (s->order[i] != seq)
        CHECK(++i < s->n_live);
    s->n_live--;
    memmove(&s->order[i], &s->order[i + 1], (size_t)(s->n_live - i) * sizeof *s->order);
}

/* From the waiting list into a slot, with its tokens. */
static void admit(struct scheduler *s, struct seq *seq)
{
    CHECK(s->n_free_slots > 0);
    waiting_remove(s, seq);
    seq->state = SEQ_LIVE;
    seq->slot = s->free_slots[--s->n_free_slots];
    CHECK(!s->slots[seq->slot] && kv_pool_is_empty(s->pool, seq->slot));
    s->slots[seq->slot] = seq;
    int32_t *tokens = s->tokens + (int64_t)seq->slot * s->ctx;
    memcpy(tokens, seq->tokens, (size_t)seq->n_prompt * sizeof *tokens);
    seq->tokens = tokens;
    int32_t i = s->n_live++;
    for (; i > 0 && seq_before(seq, s->order[i - 1]); i--)
        s->order[i] = s->order[i - 1];
    s->order[i] = seq;
}

/* ---- plan ---- */

static bool is_running(const struct seq *seq)
{
    return seq->planned > 0;
}

static bool is_one(const struct seq *seq)
{
    return is_running(seq) && seq_to_go(seq) == 1;
}

int32_t scheduler_n_ones(const struct scheduler *s)
{
    int32_t n = 0;
    for (int32_t i = 0; i < s->n_live; i++)
        n += is_one(s->order[i]) && !s->order[i]->blocked_ns;
    return n;
}

/* Takes the rows that this plan gave it back. They are lost to the step: others have their share,
 * and a preemption is rare. */
static void unplan(struct scheduler *s, struct seq *seq)
{
    struct plan_item *item = &s->plan->items[seq->item];
    CHECK(item->seq == seq);
    seq->planned -= item->n_rows;
    seq->known -= item->draws;
    seq->n_scored -= item->n_score;
    item->n_rows = item->n_score = 0; /* squeezed out when the plan is finished */
    item->draws = false;
    seq->item = -1;
}

/* Nothing of it is computed any longer; rows in flight count for nothing. */
static void forget(struct scheduler *s, struct seq *seq)
{
    kv_pool_drop(s->pool, seq->slot);
    seq->epoch++;
    seq->planned = seq->computed = 0;
}

static int32_t rope_variant_of(const struct scheduler *s, const struct seq *seq)
{
    return s->rope_border > 0 && seq->known > s->rope_border;
}

static void preempt(struct scheduler *s, struct seq *seq)
{
    if (seq->item >= 0)
        unplan(s, seq);
    forget(s, seq);
    s->counts.preemptions++;
    s->preempted = true;
}

/* Preempts one to the good of `seq`. False when there is nobody. */
static bool preempt_for(struct scheduler *s, const struct seq *seq, bool slow_only)
{
    struct seq *last = NULL;
    for (int32_t i = s->n_live - 1; i >= 0; i--) {
        struct seq *other = s->order[i];
        if (other == seq || !is_running(other))
            continue;
        if (other->blocked_ns) {
            preempt(s, other);
            return true;
        }
        if (!last)
            last = other;
    }
    if (slow_only || !last || !seq_before(seq, last))
        return false;
    preempt(s, last);
    return true;
}

/* Prompt tokens that get log-probabilities when n rows from seq->planned on are computed: those
 * from *from on. The last row of a prompt scores nothing, it draws. */
static int32_t scores_in(const struct seq *seq, int32_t n, int32_t *from)
{
    *from = seq->planned + 1 > seq->n_scored ? seq->planned + 1 : seq->n_scored;
    int32_t last = seq->planned + n < seq->n_prompt - 1 ? seq->planned + n : seq->n_prompt - 1;
    return seq->scores && last >= *from ? last - *from + 1 : 0;
}

static bool draws_with(const struct seq *seq, int32_t n)
{
    return seq->planned + n == seq->known && seq->known < seq->limit;
}

/* Gives it up to n rows: as many as the budgets and the pages allow. */
static bool give_rows(struct scheduler *s, struct seq *seq, int32_t n, bool one)
{
    CHECK(n >= 1 && n <= seq_to_go(seq) && seq->item < 0);
    n = n < s->rows_left ? n : s->rows_left;
    int32_t from = 0;
    while (n > 0 && scores_in(seq, n, &from) + draws_with(seq, n) > s->logit_rows_left)
        n--;
    if (n == 0)
        return false;
    int32_t reach = kv_pool_reach(s->pool, seq->slot);
    while (reach <= seq->planned && preempt_for(s, seq, false))
        reach = kv_pool_reach(s->pool, seq->slot);
    if (reach <= seq->planned)
        return false;
    n = n < reach - seq->planned ? n : reach - seq->planned;
    CHECK(kv_pool_grow(s->pool, seq->slot, seq->planned + n));
    CHECK(s->plan->n_items < s->n_slots); /* who lost an item gets no other in this plan */
    struct plan_item *item = &s->plan->items[s->plan->n_items];
    *item = (struct plan_item){ .seq = seq,
                                .serial = seq->serial,
                                .epoch = seq->epoch,
                                .slot = seq->slot,
                                .first = seq->planned,
                                .n_rows = n,
                                .one = one,
                                .draws = draws_with(seq, n),
                                .n_known = seq->known,
                                .n_score = scores_in(seq, n, &from),
                                .score_from = from };
    CHECK(item->n_score == 0 || from == seq->n_scored);
    seq->item = s->plan->n_items++;
    seq->planned += n;
    seq->known += item->draws;
    seq->n_scored += item->n_score;
    seq->last_plan = s->plan->serial;
    s->rows_left -= n;
    s->logit_rows_left -= item->n_score + item->draws;
    return true;
}

/* Who has waited longest first. Few are out of place: they were in order. */
static void sort_ones(struct seq **ones, int32_t n)
{
    for (int32_t i = 1; i < n; i++) {
        struct seq *seq = ones[i];
        int32_t at = i;
        for (; at > 0 && ones[at - 1]->priority == seq->priority &&
               ones[at - 1]->last_plan > seq->last_plan;
             at--)
            ones[at] = ones[at - 1];
        ones[at] = seq;
    }
}

static bool is_startable(const struct seq *seq)
{
    return seq->index == 0 || seq->run->seqs[0].prompt_computed;
}

static int32_t n_running(const struct scheduler *s)
{
    int32_t n = 0;
    for (int32_t i = 0; i < s->n_live; i++)
        n += is_running(s->order[i]);
    return n;
}

/* Gives a sequence without pages what the prefix cache has, if it fits. */
static bool start(struct scheduler *s, struct seq *seq)
{
    struct prefix_hit hit = { 0 };
    bool looks_up = s->cache && (!seq->scores || seq->n_scored >= seq->n_prompt);
    seq->kind.rope_variant = rope_variant_of(s, seq);
    int32_t n_lookup = seq->known - 1 < seq->n_tokens ? seq->known - 1 : seq->n_tokens;
    if (looks_up) /* the last known token, and those in flight, are to be computed in any case */
        prefix_cache_find(s->cache, &seq->kind, seq->tokens, n_lookup + 1, &hit);
    while (!kv_pool_fits(s->pool, &hit, seq->known, n_running(s))) {
        if (!preempt_for(s, seq, true))
            return false;
        s->preempted = false; /* a slow reader made room: the start is what it was for */
    }
    if (seq->state == SEQ_WAITING)
        admit(s, seq);
    kv_pool_adopt(s->pool, seq->slot, &hit);
    seq->planned = seq->computed = hit.n_pages * PAGE_TOKENS;
    seq->n_named = hit.n_pages;
    seq->name = hit.name;
    if (seq->started)
        return true;
    seq->started = true;
    struct request *request = seq->run->request;
    if (request->first_plan_ns == 0)
        request->first_plan_ns = s->now_ns;
    if (looks_up) {
        s->counts.prefix_queries += (uint64_t)seq->n_prompt;
        s->counts.prefix_hits += (uint64_t)seq->computed;
    }
    if (seq->index == 0) {
        request->n_cached = seq->computed;
        s->counts.prompt_tokens += (uint64_t)seq->n_prompt;
        s->counts.cached_tokens += (uint64_t)seq->computed;
    }
    return true;
}

/* Part 1: one token to go. Returns how many stand there, in s->ones. */
static int32_t plan_ones(struct scheduler *s)
{
    int32_t n_ones = 0;
    bool others = s->n_waiting > 0;
    for (int32_t i = 0; i < s->n_live; i++) {
        struct seq *seq = s->order[i];
        if (seq->blocked_ns || seq_to_go(seq) == 0)
            continue;
        if (is_one(seq))
            s->ones[n_ones++] = seq;
        else
            others = true;
    }
    int32_t rows = s->rows_left, logit_rows = s->logit_rows_left;
    int32_t rows_kept = !others ? 0 : rows < 8 ? 1 : rows / 8;
    int32_t logit_rows_kept = !others ? 0 : logit_rows < 8 ? 1 : logit_rows / 8;
    if (n_ones > rows - rows_kept || n_ones > logit_rows - logit_rows_kept)
        sort_ones(s->ones, n_ones);
    s->rows_left -= rows_kept;
    s->logit_rows_left -= logit_rows_kept;
    for (int32_t i = 0; i < n_ones && s->rows_left > 0; i++)
        if (is_one(s->ones[i])) /* not preempted by one before it */
            give_rows(s, s->ones[i], 1, true);
    s->rows_left += rows_kept;
    s->logit_rows_left += logit_rows_kept;
    return n_ones;
}

/* Part 2: everyone else, live and waiting, in one order. */
static void plan_others(struct scheduler *s)
{
    bool can_start = true; /* nobody who came before was refused */
    int32_t i = 0;
    struct seq *waiting = s->waiting_first;
    while (s->rows_left > 0 && (i < s->n_live || waiting)) {
        struct seq *seq;
        if (i < s->n_live && (!waiting || seq_before(s->order[i], waiting))) {
            seq = s->order[i++];
        } else {
            seq = waiting;
            waiting = waiting->next;
        }
        if (seq->item >= 0 || seq->blocked_ns || seq_to_go(seq) == 0 || is_one(seq))
            continue;
        if (!is_running(seq)) {
            if (!can_start || s->preempted || !is_startable(seq))
                continue;
            bool admits = seq->state == SEQ_WAITING;
            if (admits && s->n_free_slots == 0) {
                waiting = NULL; /* live ones that were preempted may still start */
                continue;
            }
            can_start = start(s, seq);
            if (!can_start)
                continue;
            i += admits; /* it stands at order[i] now: all before it were seen */
        }
        give_rows(s, seq, seq_to_go(seq), false);
    }
}

/* Sequences that lost their rows again leave holes. */
static void finish_plan(struct scheduler *s)
{
    struct plan *plan = s->plan;
    int32_t n = 0;
    for (int32_t i = 0; i < plan->n_items; i++) {
        if (plan->items[i].n_rows == 0)
            continue;
        plan->items[n] = plan->items[i];
        plan->items[n].seq->item = -1;
        plan->n_rows += plan->items[n].n_rows;
        plan->n_ones += plan->items[n].one;
        plan->n_logit_rows += plan->items[n].n_score + plan->items[n].draws;
        n++;
    }
    plan->n_items = n;
}

bool scheduler_plan(struct scheduler *s, struct plan *plan, int32_t step_tokens,
                    int32_t chunk_tokens, uint64_t now_ns)
{
    CHECK(step_tokens >= 2 && chunk_tokens >= 1 && now_ns > 0);
    *plan = (struct plan){ .serial = s->next_plan++, .items = plan->items };
    s->plan = plan;
    s->rows_left = step_tokens;
    s->logit_rows_left = s->logit_rows_max;
    s->preempted = false;
    s->now_ns = now_ns;
    for (int32_t i = 0; i < s->n_live; i++) {
        struct seq *seq = s->order[i];
        if (is_running(seq) && seq->kind.rope_variant != rope_variant_of(s, seq))
            forget(s, seq); /* it starts again with the keys of a longer one */
        if (seq_has_room(seq))
            seq->blocked_ns = 0;
        else if (!seq->blocked_ns)
            seq->blocked_ns = now_ns;
    }
    int32_t n_ones = plan_ones(s);
    int32_t withheld = n_ones > 0 && s->rows_left > chunk_tokens ? s->rows_left - chunk_tokens : 0;
    s->rows_left -= withheld;
    plan_others(s);
    s->rows_left += withheld;
    for (int32_t i = 0; i < n_ones && s->rows_left > 0; i++) /* what the others left over */
        if (s->ones[i]->item < 0 && is_one(s->ones[i]))
            give_rows(s, s->ones[i], 1, true);
    finish_plan(s);
    s->plan = NULL;
    return plan->n_items > 0;
}

/* ---- commit and drop ---- */

/* Offers every page that has become full to the prefix cache. */
static void publish(struct scheduler *s, struct seq *seq)
{
    while (s->cache && (seq->n_named + 1) * PAGE_TOKENS <= seq->computed) {
        const int32_t *tokens = seq->tokens + (int64_t)seq->n_named * PAGE_TOKENS;
        for (int32_t g = 0; g < s->pool->n_groups; g++) {
            int32_t page = kv_pool_page(s->pool, g, seq->slot, seq->n_named);
            if (page >= 0)
                prefix_cache_publish(s->cache, g, page, seq->name, &seq->kind, tokens);
        }
        seq->name = prefix_cache_name(s->cache, seq->name, &seq->kind, tokens);
        seq->n_named++;
    }
    if (!s->cache || seq->n_named >= (seq->n_prompt - 1) / PAGE_TOKENS)
        seq->prompt_computed = true;
}

void scheduler_commit(struct scheduler *s, const struct plan *plan)
{
    for (int32_t i = 0; i < plan->n_items; i++) {
        const struct plan_item *item = &plan->items[i];
        if (!scheduler_is_live(s, item) || item->seq->epoch != item->epoch)
            continue;
        struct seq *seq = item->seq;
        CHECK(item->first == seq->computed);
        seq->computed += item->n_rows;
        CHECK(seq->computed <= seq->planned && seq->computed <= seq->n_tokens);
        publish(s, seq);
        kv_pool_trim(s->pool, seq->slot, seq->computed);
    }
}

void scheduler_drop(struct scheduler *s, struct seq *seq)
{
    CHECK(seq->state != SEQ_DONE && seq->item < 0);
    if (seq->state == SEQ_WAITING) {
        waiting_remove(s, seq);
    } else {
        kv_pool_drop(s->pool, seq->slot);
        order_remove(s, seq);
        s->slots[seq->slot] = NULL;
        s->free_slots[s->n_free_slots++] = seq->slot;
        seq->slot = -1;
    }
    seq->state = SEQ_DONE;
    seq->prompt_computed = true; /* siblings must not wait for it any longer */
}
