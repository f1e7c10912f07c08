/* async.cpp - copies that land late: cp.async groups, bulk copies with mbarriers, deferred
 * products.
 *
 *   issue       the destination is NaN (device.cuh), the source is not read
 *   later       a copy may land at any commit or wait of its thread, a bulk copy at any switch of
 *               its block: by lot
 *   wait        what the wait covers lands
 * so a missing wait, a wait that covers too little, a missing commit, a stage that is read or
 * reused while a copy is on its way to it: all become NaN or old numbers, in some orders or in all.
 */
#include "internal.h"

/* ---- cp.async -----------------------------------------------------------------------------------
 */

static void check_readable(const void *from, size_t bytes, const char *what, HOSTCUDA_AT)
{
    if (__asan_region_is_poisoned == nullptr)
        return;
    const void *bad = __asan_region_is_poisoned(const_cast<void *>(from), bytes);
    if (bad != nullptr)
        hostcuda_fail(file, line, "%s reads %p, which no allocation holds", what, bad);
}
static void land(const struct hc_copy *copy)
{
    const size_t bytes = (size_t)copy->bytes;
    if (!copy->valid) {
        if (__tsan_write_range != nullptr)
            __tsan_write_range(copy->to, bytes);
        memset(copy->to, 0, bytes);
        return;
    }
    check_readable(copy->from, bytes, "cp_async", copy->file, copy->line);
    if (__tsan_read_range != nullptr) {
        __tsan_read_range(const_cast<unsigned char *>(copy->from), bytes);
        __tsan_write_range(copy->to, bytes);
    }
    memcpy(copy->to, copy->from, bytes);
}
/* Those of groups before `group`; of the others, some by lot. */
static void land_before(struct hc_fiber *fiber, int group, bool some)
{
    size_t kept = 0;
    for (struct hc_copy &copy : fiber->copies) {
        if (copy.group < group || (some && (hc_random.next() & 1u) != 0))
            land(&copy);
        else
            fiber->copies[kept++] = copy;
    }
    fiber->copies.resize(kept);
}
void hostcuda_cp_async(void *to, const void *from, int bytes, bool valid, HOSTCUDA_AT)
{
    struct hc_fiber *self = hc_self;
    const uintptr_t odd = (uintptr_t)bytes - 1;
    if (((uintptr_t)to & odd) != 0 || (valid && ((uintptr_t)from & odd) != 0))
        hostcuda_fail(file, line, "cp_async%d from %p to %p: both are multiples of %d", bytes, from,
                      to, bytes);
    self->copies.push_back({ (unsigned char *)to, (const unsigned char *)from, bytes, valid,
                             self->copy_group, file, line });
    if (hostcuda_counting && valid)
        self->block->grid->count->copy_bytes += (uint64_t)bytes;
}
void hostcuda_cp_commit(HOSTCUDA_AT)
{
    (void)file, (void)line;
    struct hc_fiber *self = hc_self;
    self->copy_group++;
    if (!self->copies.empty() && (hc_random.next() & 7u) == 0)
        land_before(self, 0, true);
}
void hostcuda_cp_wait(int most_pending, HOSTCUDA_AT)
{
    (void)file, (void)line;
    struct hc_fiber *self = hc_self;
    if (!self->copies.empty())
        land_before(self, self->copy_group - most_pending, (hc_random.next() & 7u) == 0);
}
void hc_reset_async(struct hc_fiber *fiber)
{
    land_before(fiber, fiber->copy_group + 1, false); /* they do arrive, whoever has ended */
    if (fiber->n_landed != fiber->deferred.size())
        hostcuda_fail(fiber->place.file, fiber->place.line,
                      "a thread ends with %zu products that were never waited for",
                      fiber->deferred.size() - fiber->n_landed);
}

/* ---- mbarriers and bulk copies ------------------------------------------------------------------
 */

/* What the 8 bytes hold, so that somebody who writes over them is noticed. */
static const uint64_t MBAR_CONTENTS = 0x6d62617272696572u;

static struct hc_mbar *find_mbar(uint64_t *bar, const char *what, HOSTCUDA_AT)
{
    for (struct hc_mbar &m : hc_self->block->mbars)
        if (m.at == bar) {
            if (*bar != MBAR_CONTENTS)
                hostcuda_fail(file, line, "%s: somebody wrote over the mbarrier", what);
            return &m;
        }
    hostcuda_fail(file, line, "%s: no mbar_init has been here (offset %ld)", what,
                  (long)((unsigned char *)bar - hc_self->block->shared));
}
void hostcuda_mbar_init(uint64_t *bar, int count, HOSTCUDA_AT)
{
    struct hc_block *block = hc_self->block;
    hostcuda_shared_at(bar, 8, "mbar_init", file, line);
    if (((uintptr_t)bar & 7u) != 0 || count <= 0)
        hostcuda_fail(file, line, "mbar_init(%p, %d)", (void *)bar, count);
    for (struct hc_mbar &m : block->mbars)
        if (m.at == bar)
            hostcuda_fail(file, line, "mbar_init: the mbarrier is in use");
    if (__tsan_write_range != nullptr)
        __tsan_write_range(bar, 8);
    *bar = MBAR_CONTENTS;
    block->mbars.push_back({ bar, count, count, 0, 0 });
}
static void end_phase(struct hc_block *block, struct hc_mbar *m)
{
    if (m->pending != 0 || m->expected_bytes != 0)
        return;
    m->phase ^= 1u;
    m->pending = m->count;
    if (block->n_waiting_mbar == 0)
        return;
    for (int t = 0; t < block->threads; t++) {
        struct hc_fiber *fiber = block->fiber[t];
        if (fiber->state == HC_MBAR && fiber->mbar == m->at && fiber->parity != m->phase) {
            block->n_waiting_mbar--;
            hc_ready(fiber);
        }
    }
}
void hostcuda_mbar_arrive(uint64_t *bar, int bytes, HOSTCUDA_AT)
{
    struct hc_mbar *m = find_mbar(bar, "mbar_arrive", file, line);
    if (m->pending == 0)
        hostcuda_fail(file, line, "mbar_arrive: more than %d arrivals in a phase", m->count);
    if (__tsan_read_range != nullptr)
        __tsan_read_range(bar, 8);
    tsan_release(bar);
    m->pending--;
    m->expected_bytes += bytes;
    end_phase(hc_self->block, m);
}
void hostcuda_mbar_wait(uint64_t *bar, uint32_t parity, HOSTCUDA_AT)
{
    struct hc_fiber *self = hc_self;
    if (parity > 1)
        hostcuda_fail(file, line, "mbar_wait: parity %u", parity);
    if (__tsan_read_range != nullptr)
        __tsan_read_range(bar, 8);
    if (find_mbar(bar, "mbar_wait", file, line)->phase == parity) {
        self->mbar = bar;
        self->parity = parity;
        self->block->n_waiting_mbar++;
        hc_wait(HC_MBAR, "mbar_wait", file, line);
    }
    tsan_acquire(bar);
}
void hostcuda_bulk_copy(void *to, const void *from, int bytes, uint64_t *bar, HOSTCUDA_AT)
{
    struct hc_block *block = hc_self->block;
    if (bytes <= 0 || (((uintptr_t)to | (uintptr_t)from | (uintptr_t)bytes) & 15u) != 0)
        hostcuda_fail(file, line, "bulk_copy of %d bytes from %p to %p: all are multiples of 16",
                      bytes, from, to);
    find_mbar(bar, "bulk_copy", file, line);
    check_readable(from, (size_t)bytes, "bulk_copy", file, line);
    tsan_release(to); /* the copy comes after what this thread has done and seen */
    block->bulks.push_back({ (unsigned char *)to,
                             (const unsigned char *)from,
                             bytes,
                             bar,
                             { "bulk_copy", file, line } });
    if (hostcuda_counting)
        block->grid->count->bulk_bytes += (uint64_t)bytes;
}
bool hc_land_bulk(struct hc_block *block)
{
    static void *engine; /* the copy engine is nobody's thread */
    if (block->bulks.empty())
        return false;
    const size_t i = (size_t)hc_random.below((int)block->bulks.size());
    const struct hc_bulk bulk = block->bulks[i];
    block->bulks[i] = block->bulks.back();
    block->bulks.pop_back();
    check_readable(bulk.from, (size_t)bulk.bytes, "bulk_copy", bulk.place.file, bulk.place.line);
    void *caller = nullptr;
    if (__tsan_switch_to_fiber != nullptr) {
        if (engine == nullptr)
            engine = __tsan_create_fiber(0);
        caller = __tsan_get_current_fiber();
        __tsan_switch_to_fiber(engine, 1);
        tsan_acquire(bulk.to);
        __tsan_read_range(const_cast<unsigned char *>(bulk.from), bulk.bytes);
        __tsan_write_range(bulk.to, bulk.bytes);
        tsan_release(bulk.bar);
        __tsan_switch_to_fiber(caller, 1);
    }
    hc_move(bulk.to, bulk.from, (size_t)bulk.bytes);
    for (struct hc_mbar &m : block->mbars)
        if (m.at == bulk.bar) {
            m.expected_bytes -= bulk.bytes;
            end_phase(block, &m);
        }
    return true;
}

/* ---- deferred collectives (wgmma) ---------------------------------------------------------------
 */

static void meet(void *const *, int)
{
}

void hostcuda_group_issue(int threads, const void *deposit, size_t bytes, hostcuda_compute compute,
                          const char *what, HOSTCUDA_AT)
{
    struct hc_fiber *self = hc_self;
    struct hc_deferred deferred;
    if (bytes > sizeof deferred.deposit)
        hostcuda_fail(file, line, "%s: a deposit of %zu bytes", what, bytes);
    memcpy(deferred.deposit, deposit, bytes);
    deferred.compute = compute;
    deferred.group = self->deferred_group;
    self->deferred.push_back(deferred);
    hostcuda_collective(threads, nullptr, meet, false, what, file, line);
}
void hostcuda_group_commit(int threads, HOSTCUDA_AT)
{
    hc_self->deferred_group++;
    hostcuda_collective(threads, nullptr, meet, false, "group_commit", file, line);
}
static thread_local int landing_most_pending;
static void land_deferred(void *const *fibers, int threads)
{
    struct hc_fiber *const first = (struct hc_fiber *)fibers[0];
    size_t i = first->n_landed;
    for (; i < first->deferred.size(); i++) {
        const struct hc_deferred *next = &first->deferred[i];
        if (next->group >= first->deferred_group - landing_most_pending)
            break;
        void *deposits[HC_THREADS_MAX];
        for (int t = 0; t < threads; t++)
            deposits[t] = ((struct hc_fiber *)fibers[t])->deferred[i].deposit;
        hc_compute(next->compute, deposits, threads);
    }
    const bool all = i == first->deferred.size();
    for (int t = 0; t < threads; t++) {
        struct hc_fiber *fiber = (struct hc_fiber *)fibers[t];
        fiber->n_landed = all ? 0 : i;
        if (all)
            fiber->deferred.clear();
    }
}
void hostcuda_group_wait(int threads, int most_pending, HOSTCUDA_AT)
{
    landing_most_pending = most_pending; /* set again by the last to come, who computes */
    hostcuda_collective(threads, hc_self, land_deferred, false, "group_wait", file, line);
}
