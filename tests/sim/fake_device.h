/* fake_device.h - a device without a model that notices every wrong page.
 *
 * Its "keys and values" are cells: a page of each group holds 16 cells of (position, token, hash of
 * the whole prefix up to it). A row writes its cell and reads, in every group, all cells that its
 * window sees: each must hold its own position, and hashes must chain. So a page that was shared
 * wrongly, freed too early, given back before the window had passed or never filled is seen at
 * once. Tokens are a function of (prefix hash, seed, index): whatever the schedule was, a request
 * has one right answer, fake_answer.
 *
 * With depth 2 it runs late: a step that was launched is copied, and computed when it is
 * collected, which is after the next one was launched. */
#pragma once
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include "host/engine/batch_build.h"
#include "host/engine/engine.h"

enum { FAKE_VOCAB = 61, FAKE_EOS = 0 };

struct fake_cell {
    int32_t position, token;
    uint64_t hash;
};
enum { FAKE_ROWS_MAX = 256, FAKE_TABLE_MAX = 4096 };
/* A launched step: all that a device reads before launch returns. */
struct fake_flight {
    struct batch batch;
    int32_t tokens[FAKE_ROWS_MAX], positions[FAKE_ROWS_MAX], row_seq[FAKE_ROWS_MAX];
    int32_t logit_rows[FAKE_ROWS_MAX];
    struct batch_seq seqs[FAKE_ROWS_MAX];
    int32_t pages[KV_GROUPS_MAX][FAKE_TABLE_MAX];
    struct sample_row rows[FAKE_ROWS_MAX];
    int32_t n_rows;
    struct sample_out *outs;
    _Atomic uint64_t *beat;
    bool ran, failed; /* in launch, with this error */
    struct err err;
};
struct fake_device {
    int32_t n_groups, windows[KV_GROUPS_MAX], n_pages[KV_GROUPS_MAX];
    struct fake_cell *cells[KV_GROUPS_MAX]; /* [n_pages][PAGE_TOKENS] */
    int32_t *drawn;                         /* [n_slots] last token drawn */
    const uint64_t *salts;                  /* [n_seqs of the batch], or NULL: all zero */
    int64_t n_steps, fail_at;               /* the step that fails, from 1; 0: none */
    bool fail_by_token;                     /* by token -1 instead of false */
    int32_t rope_border; /* of what it says it is; "keys" of other variants do not chain */
    void (*on_step)(struct fake_device *device, const struct batch *batch);
    void *context;
    int32_t depth;               /* steps at once: 1 (0 too), or 2: runs late */
    int64_t over_every;          /* each such step is over when launch returns; 0: none */
    struct fake_flight *flights; /* [2]; launched and not collected: from `first` on */
    int32_t first;
    int32_t n_flights;
    int64_t n_launched, n_ahead; /* n_ahead: launched while another was under way */
};

static inline uint64_t fake_mix(uint64_t hash, uint64_t value)
{
    hash = (hash ^ (value + 0x9e3779b97f4a7c15u)) * 0xff51afd7ed558ccdu;
    hash ^= hash >> 32;
    hash *= 0xc4ceb9fe1a85ec53u;
    return hash ^ hash >> 29;
}
static inline uint64_t fake_root(uint64_t salt, int32_t rope_variant)
{
    return fake_mix(fake_mix(0x6e6962626c65u, salt), (uint64_t)rope_variant);
}
static inline bool fake_is_in(const int32_t *list, int32_t n, int32_t token)
{
    for (int32_t i = 0; i < n; i++)
        if (list[i] == token)
            return true;
    return false;
}
static inline bool fake_allows(const int32_t *banned, int32_t n_banned, const uint32_t *mask,
                               int32_t token)
{
    return !fake_is_in(banned, n_banned, token) &&
           (mask == NULL || (mask[token / 32] >> (token % 32) & 1));
}
static inline int32_t fake_draw(uint64_t prefix, uint64_t seed, uint64_t index,
                                const int32_t *banned, int32_t n_banned, const uint32_t *mask)
{
    uint64_t hash = fake_mix(fake_mix(prefix, seed), index);
    int32_t n_left = 0;
    for (int32_t token = 0; token < FAKE_VOCAB; token++)
        n_left += fake_allows(banned, n_banned, mask, token);
    for (; n_left > 0; hash = fake_mix(hash, 1)) {
        int32_t token = (int32_t)(hash % FAKE_VOCAB);
        if (fake_allows(banned, n_banned, mask, token))
            return token;
    }
    return -1;
}
static inline float fake_logprob(uint64_t prefix, int32_t token)
{
    return -(float)(fake_mix(prefix, (uint64_t)token) % 1000) / 100;
}

static inline void fake_device_init(struct fake_device *device, int32_t n_groups,
                                    const int32_t *windows, const int32_t *n_pages, int32_t n_slots)
{
    *device = (struct fake_device){ .n_groups = n_groups };
    for (int32_t g = 0; g < n_groups; g++) {
        device->windows[g] = windows[g];
        device->n_pages[g] = n_pages[g];
        device->cells[g] = calloc((size_t)n_pages[g] * PAGE_TOKENS, sizeof(struct fake_cell));
        CHECK(device->cells[g]);
        for (int32_t i = 0; i < n_pages[g] * PAGE_TOKENS; i++)
            device->cells[g][i].position = -1;
    }
    device->drawn = calloc((size_t)n_slots, sizeof(int32_t));
    device->flights = calloc(2, sizeof *device->flights); /* the engine thread allocates nothing */
    CHECK(device->drawn && device->flights);
}
static inline void fake_device_clear(struct fake_device *device)
{
    for (int32_t g = 0; g < device->n_groups; g++)
        free(device->cells[g]);
    free(device->drawn);
    free(device->flights);
}

/* The cell of a position, or NULL when the table has no page there. */
static inline struct fake_cell *fake_cell_at(struct fake_device *device, const struct batch *batch,
                                             int32_t g, int32_t seq, int32_t position)
{
    int32_t index = position / PAGE_TOKENS;
    int32_t page = index < batch->pages_stride[g] ? batch_page(batch, g, seq, index) : -1;
    if (page < 0 || page >= device->n_pages[g])
        return NULL;
    return &device->cells[g][(int64_t)page * PAGE_TOKENS + position % PAGE_TOKENS];
}

/* All that the row at `position` sees must be what this very sequence wrote or may share. */
static inline bool fake_check_view(struct fake_device *device, const struct batch *batch,
                                   int32_t seq, int32_t position, uint64_t root, struct err *err)
{
    for (int32_t g = 0; g < device->n_groups; g++) {
        int32_t w = device->windows[g];
        int32_t from = w > 0 && position >= w ? position - w + 1 : 0;
        const struct fake_cell *before = NULL;
        for (int32_t q = from; q < position; q++) {
            const struct fake_cell *cell = fake_cell_at(device, batch, g, seq, q);
            if (!cell || cell->position != q)
                return err_set(err, ERR_DEVICE,
                               "slot %d position %d group %d: cell of position %d holds %d",
                               batch->seqs[seq].slot, position, g, q, cell ? cell->position : -2);
            bool chained = q == 0   ? cell->hash == fake_mix(root, (uint64_t)cell->token)
                           : before ? cell->hash == fake_mix(before->hash, (uint64_t)cell->token)
                                    : true;
            if (!chained)
                return err_set(err, ERR_DEVICE,
                               "slot %d position %d group %d: position %d is of another sequence",
                               batch->seqs[seq].slot, position, g, q);
            before = cell;
        }
        const struct fake_cell *first =
            position > 0 ? fake_cell_at(device, batch, 0, seq, position - 1) : NULL;
        if (before && first && before->hash != first->hash)
            return err_set(err, ERR_DEVICE, "slot %d position %d: groups 0 and %d disagree",
                           batch->seqs[seq].slot, position, g);
    }
    return true;
}

static inline bool fake_run_seq(struct fake_device *device, const struct batch *batch, int32_t seq,
                                uint64_t *hashes, struct err *err)
{
    const struct batch_seq *s = &batch->seqs[seq];
    uint64_t root = fake_root(device->salts ? device->salts[seq] : 0, s->rope_variant);
    uint64_t hash = root;
    if (s->first_position > 0)
        hash = fake_cell_at(device, batch, 0, seq, s->first_position - 1)->hash;
    for (int32_t row = s->first_row; row < s->first_row + s->n_rows; row++) {
        int32_t position = batch->positions[row], token = batch->tokens[row];
        if (token == BATCH_TOKEN_IN_FLIGHT)
            token = device->drawn[s->slot];
        if (position != s->first_position + row - s->first_row || batch->row_seq[row] != seq)
            return err_set(err, ERR_DEVICE, "row %d: position %d of sequence %d", row, position,
                           batch->row_seq[row]);
        hash = fake_mix(hash, (uint64_t)token);
        hashes[row] = hash;
        for (int32_t g = 0; g < device->n_groups; g++) {
            struct fake_cell *cell = fake_cell_at(device, batch, g, seq, position);
            if (!cell)
                return err_set(err, ERR_DEVICE, "row %d: group %d has no page for position %d", row,
                               g, position);
            *cell = (struct fake_cell){ position, token, hash };
        }
    }
    /* What the chunk itself wrote must still be there for its last row. */
    return fake_check_view(device, batch, seq, s->first_position + s->n_rows - 1, root, err);
}

static inline bool fake_step(void *self, const struct batch *batch, const struct sample_row *rows,
                             int32_t n_rows, struct sample_out *outs, _Atomic uint64_t *beat,
                             struct err *err)
{
    struct fake_device *device = self;
    uint64_t hashes[4096];
    CHECK(batch->n_rows <= 4096 && n_rows == batch->n_logit_rows);
    device->n_steps++;
    if (device->on_step)
        device->on_step(device, batch);
    bool fails = device->n_steps == device->fail_at;
    if (fails && !device->fail_by_token)
        return err_set(err, ERR_DEVICE, "fault at step %lld", (long long)device->n_steps);
    /* Before anything is written: pages of earlier steps only may be relied on. */
    for (int32_t seq = 0; seq < batch->n_seqs; seq++)
        if (!fake_check_view(
                device, batch, seq, batch->seqs[seq].first_position,
                fake_root(device->salts ? device->salts[seq] : 0, batch->seqs[seq].rope_variant),
                err))
            return false;
    for (int32_t seq = 0; seq < batch->n_seqs; seq++)
        if (!fake_run_seq(device, batch, seq, hashes, err))
            return false;
    if (beat)
        atomic_fetch_add_explicit(beat, 1, memory_order_relaxed);
    for (int32_t i = 0; i < n_rows; i++) {
        const struct sample_row *row = &rows[i];
        int32_t batch_row = batch->logit_rows[row->logit_row];
        const struct batch_seq *s = &batch->seqs[batch->row_seq[batch_row]];
        uint64_t hash = hashes[batch_row];
        struct sample_out *out = &outs[i];
        *out = (struct sample_out){ .token = row->target };
        if (row->position != batch->positions[batch_row] + 1)
            return err_set(err, ERR_DEVICE, "logit row %d: position %lld after a row at %d", i,
                           (long long)row->position, batch->positions[batch_row]);
        if (row->target < 0) {
            out->token = fake_draw(hash, row->params->seed, row->index, row->banned, row->n_banned,
                                   row->mask);
            device->drawn[s->slot] = out->token;
        }
        if (row->params->n_top >= 0) {
            out->logprob = fake_logprob(hash, out->token);
            out->n_top = row->params->n_top;
            for (int32_t k = 0; k < out->n_top; k++) {
                out->top_tokens[k] = (out->token + k) % FAKE_VOCAB;
                out->top_logprobs[k] = out->logprob - (float)k;
            }
        }
        if (fails)
            out->token = -1;
    }
    return true;
}

static inline void fake_copy(const struct fake_device *device, struct fake_flight *f,
                             const struct batch *batch, const struct sample_row *rows,
                             int32_t n_rows)
{
    CHECK(batch->n_rows <= FAKE_ROWS_MAX && n_rows <= FAKE_ROWS_MAX);
    f->batch = *batch;
    memcpy(f->tokens, batch->tokens, (size_t)batch->n_rows * sizeof *f->tokens);
    memcpy(f->positions, batch->positions, (size_t)batch->n_rows * sizeof *f->positions);
    memcpy(f->row_seq, batch->row_seq, (size_t)batch->n_rows * sizeof *f->row_seq);
    memcpy(f->logit_rows, batch->logit_rows, (size_t)n_rows * sizeof *f->logit_rows);
    memcpy(f->seqs, batch->seqs, (size_t)batch->n_seqs * sizeof *f->seqs);
    memcpy(f->rows, rows, (size_t)n_rows * sizeof *f->rows);
    f->n_rows = n_rows;
    f->batch.tokens = f->tokens;
    f->batch.positions = f->positions;
    f->batch.row_seq = f->row_seq;
    f->batch.logit_rows = f->logit_rows;
    f->batch.seqs = f->seqs;
    for (int32_t g = 0; g < device->n_groups; g++) {
        int32_t n = batch->n_seqs * batch->pages_stride[g];
        CHECK(n <= FAKE_TABLE_MAX);
        memcpy(f->pages[g], batch->pages[g], (size_t)n * sizeof(int32_t));
        f->batch.pages[g] = f->pages[g];
    }
}
static inline bool fake_run(struct fake_device *device, struct fake_flight *f, struct err *err)
{
    return fake_step(device, &f->batch, f->rows, f->n_rows, f->outs, f->beat, err);
}
static inline bool fake_launch(void *self, const struct batch *batch, const struct sample_row *rows,
                               int32_t n_rows, struct sample_out *outs,
                               const struct step_masks *masks, _Atomic uint64_t *beat)
{
    struct fake_device *device = self;
    bool late = device->depth == 2;
    CHECK(device->n_flights < (late ? 2 : 1));
    /* The history ends with the token before the one to be drawn, here or still in flight. */
    for (int32_t i = 0; i < n_rows; i++) {
        const struct sample_row *row = &rows[i];
        int32_t n = row->n_prompt + row->n_output, at = batch->logit_rows[row->logit_row];
        CHECK(row->slot == batch->seqs[batch->row_seq[at]].slot);
        CHECK(late || !row->in_flight);
        CHECK(row->target >= 0 || n == row->position);
        CHECK(row->target >= 0 || row->in_flight == (batch->tokens[at] == BATCH_TOKEN_IN_FLIGHT));
        CHECK(row->target >= 0 || row->in_flight || row->history[n - 1] == batch->tokens[at]);
    }
    masks->fill(masks->self);
    struct fake_flight *f = &device->flights[(device->first + device->n_flights) % 2];
    fake_copy(device, f, batch, rows, n_rows);
    f->outs = outs;
    f->beat = beat;
    f->ran = false;
    device->n_launched++;
    device->n_ahead += device->n_flights > 0;
    device->n_flights++;
    if (late && (device->over_every == 0 || device->n_launched % device->over_every != 0))
        return true;
    for (int32_t i = 0; i < device->n_flights; i++) { /* in order */
        struct fake_flight *at = &device->flights[(device->first + i) % 2];
        if (!at->ran)
            at->failed = !fake_run(device, at, &at->err);
        at->ran = true;
    }
    return false;
}
static inline bool fake_collect(void *self, struct err *err)
{
    struct fake_device *device = self;
    CHECK(device->n_flights > 0);
    struct fake_flight *f = &device->flights[device->first];
    device->first = (device->first + 1) % 2;
    device->n_flights--;
    if (!f->ran)
        return fake_run(device, f, err);
    *err = f->err;
    return !f->failed;
}

static inline struct engine_device fake_engine_device(struct fake_device *device)
{
    struct engine_device out = {
        .self = device,
        .vocab = FAKE_VOCAB,
        .n_groups = device->n_groups,
        .rope_border = device->rope_border,
        .n_steps = device->depth == 2 ? 2 : 1,
        .launch = fake_launch,
        .collect = fake_collect,
    };
    memcpy(out.windows, device->windows, sizeof out.windows);
    memcpy(out.n_pages, device->n_pages, sizeof out.n_pages);
    return out;
}

/* The prefix hash of the prompt and n_output tokens, in the variant of their number. */
static inline uint64_t fake_prefix(const struct request *r, const int32_t *output, int32_t n_output,
                                   int32_t rope_border)
{
    int32_t n = r->n_prompt + n_output;
    uint64_t hash = fake_root(r->salt, rope_border > 0 && n > rope_border);
    for (int32_t i = 0; i < n; i++)
        hash = fake_mix(hash, (uint64_t)(i < r->n_prompt ? r->prompt[i] : output[i - r->n_prompt]));
    return hash;
}

/* The one right answer of sequence `index`: tokens[0..returned), how it ends, and with what. */
static inline int32_t fake_answer(const struct request *r, int32_t index, int32_t rope_border,
                                  int32_t *tokens, enum finish *finish, int32_t *finish_token)
{
    int32_t eos = FAKE_EOS, banned[64], n_banned = 0;
    if (!r->ignore_eos)
        banned[n_banned++] = eos;
    for (int32_t i = 0; i < r->n_stop_tokens; i++)
        banned[n_banned++] = r->stop_tokens[i];
    uint64_t hash = fake_prefix(r, tokens, 0, rope_border);
    *finish = FINISH_LENGTH;
    *finish_token = -1;
    for (int32_t n = 0; n < r->max_tokens; n++) {
        int32_t token = fake_draw(hash, r->sampling.seed, (uint64_t)index, banned,
                                  n < r->min_tokens ? n_banned : 0, NULL);
        if (fake_is_in(banned, n_banned, token)) {
            *finish = FINISH_STOP;
            *finish_token = token;
            return n;
        }
        tokens[n] = token;
        if (r->n_prompt + n == rope_border) /* one more: all of it anew */
            hash = fake_prefix(r, tokens, n + 1, rope_border);
        else
            hash = fake_mix(hash, (uint64_t)token);
    }
    return r->max_tokens;
}
