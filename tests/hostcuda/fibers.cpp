/* fibers.cpp - CUDA threads as fibers: the switch, the order they run in, and how a grid runs.
 *
 *   A block's threads are fibers with stacks of their own. A fiber runs until it waits; then the
 * next is one of its warp's ready lanes, by lot, and once in 64 times, or when there is none, any
 * warp's. So warps run far ahead of each other between barriers, and what a barrier should have
 * ordered comes in the wrong order soon.
 *   Blocks start in random order. One at a time, except when the launch says that blocks wait for
 * one another: then all are there at once.
 *   When no fiber is ready, what is on its way lands; when nothing is, the threads that are left
 * wait for what never comes: a failure. */
#include "internal.h"
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>

enum {
    STACK_BYTES = 128 << 10, /* what is touched of it is memory */
    STACK_GUARD = 4096,
    /* Under the race detector a block's threads must not be those of the block before it: so many
     * sets of fibers take turns. Not more: it is ten times slower beyond 255 threads. */
    RACE_SETS = 2,
};

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
struct hc_fiber *hc_self;
struct hc_grid *hc_grid;
struct hc_random hc_random = { 1 };

/* ---- the switch ---------------------------------------------------------------------------------
 */

extern "C" void hc_switch(void **save, void *to);
asm(R"(
.text
.globl hc_switch
.type hc_switch, @function
hc_switch:
    .cfi_startproc
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .cfi_endproc
.size hc_switch, .-hc_switch
)");

static struct {
    void *sp, *tsan, *fake_stack;
    const void *stack;
    size_t stack_bytes;
    bool left; /* its stack is told to who arrives from it */
} host;        /* the thread that runs the grid */

static void arrived_on(void *fake_stack)
{
    if (__sanitizer_finish_switch_fiber != nullptr) {
        const void *bottom;
        size_t size;
        __sanitizer_finish_switch_fiber(fake_stack, &bottom, &size);
        if (host.left) {
            host.left = false;
            host.stack = bottom;
            host.stack_bytes = size;
        }
    }
}
static void show_thread(const struct hc_fiber *fiber)
{
    hc_self = const_cast<struct hc_fiber *>(fiber);
    threadIdx = fiber->thread;
    blockIdx = fiber->block->index;
}
static void switch_to(struct hc_fiber *from, struct hc_fiber *to)
{
    show_thread(to);
    if (__tsan_switch_to_fiber != nullptr)
        __tsan_switch_to_fiber(to->tsan, 1); /* 1: a switch orders nothing */
    if (__sanitizer_start_switch_fiber != nullptr)
        __sanitizer_start_switch_fiber(&from->fake_stack, to->stack, to->stack_bytes);
    hc_switch(&from->sp, to->sp);
    arrived_on(from->fake_stack);
}
static void switch_to_host(struct hc_fiber *from)
{
    hc_self = nullptr;
    if (__tsan_switch_to_fiber != nullptr)
        __tsan_switch_to_fiber(host.tsan, 1);
    if (__sanitizer_start_switch_fiber != nullptr)
        __sanitizer_start_switch_fiber(&from->fake_stack, host.stack, host.stack_bytes);
    hc_switch(&from->sp, host.sp);
    arrived_on(from->fake_stack);
}
static void switch_from_host(struct hc_fiber *to)
{
    show_thread(to);
    if (__tsan_switch_to_fiber != nullptr) {
        host.tsan = __tsan_get_current_fiber();
        __tsan_switch_to_fiber(to->tsan, 1);
    }
    host.left = true;
    if (__sanitizer_start_switch_fiber != nullptr)
        __sanitizer_start_switch_fiber(&host.fake_stack, to->stack, to->stack_bytes);
    hc_switch(&host.sp, to->sp);
    arrived_on(host.fake_stack);
}

/* ---- failures -----------------------------------------------------------------------------------
 */

static void (*failure_handler)(const char *text);

void hostcuda_on_failure(void (*handler)(const char *text))
{
    failure_handler = handler;
}
[[noreturn]] static void failed(const char *text)
{
    if (failure_handler != nullptr)
        failure_handler(text);
    fflush(stdout);
    fprintf(stderr, "hostcuda: %s\n", text);
    fflush(stderr);
    abort();
}
static int put(char *text, int at, int size, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static int put(char *text, int at, int size, const char *format, ...)
{
    if (at >= size)
        return at;
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(text + at, (size_t)(size - at), format, args);
    va_end(args);
    return n < 0 ? at : at + n;
}
static int put_thread(char *text, int at, int size, const struct hc_fiber *fiber)
{
    const struct hc_block *block = fiber->block;
    return put(text, at, size, "%s, block (%u, %u, %u), thread %d", block->grid->count->name,
               block->index.x, block->index.y, block->index.z, fiber->index);
}
void hostcuda_fail(HOSTCUDA_AT, const char *format, ...)
{
    char text[2048];
    int at = put(text, 0, sizeof text, "%s:%d: ", file, line);
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(text + at, sizeof text - (size_t)at, format, args);
    va_end(args);
    at += n < 0 ? 0 : n;
    if (hc_self != nullptr) {
        at = put(text, at, sizeof text, " (");
        at = put_thread(text, at, sizeof text, hc_self);
        put(text, at, sizeof text, ")");
    }
    failed(text);
}
/* "line: what: threads 0..31, 64" for each place where threads of the block wait. */
static int put_waiting(char *text, int at, int size, const struct hc_block *block)
{
    bool told[HC_THREADS_MAX] = {};
    for (int t = 0; t < block->threads; t++) {
        const struct hc_fiber *fiber = block->fiber[t];
        if (told[t] || fiber->state == HC_DONE)
            continue;
        const struct hc_place *place = &fiber->place;
        at = put(text, at, size, "\n    %s:%d: %s: threads", place->file, place->line, place->what);
        for (int i = t; i < block->threads; i++) {
            int end = i;
            while (end < block->threads && block->fiber[end]->state != HC_DONE &&
                   block->fiber[end]->place.line == place->line &&
                   block->fiber[end]->place.what == place->what)
                told[end++] = true;
            if (end > i + 1)
                at = put(text, at, size, " %d..%d", i, end - 1);
            else if (end > i)
                at = put(text, at, size, " %d", i);
            i = end > i ? end - 1 : i;
        }
    }
    int done = 0;
    for (int t = 0; t < block->threads; t++)
        done += block->fiber[t]->state == HC_DONE;
    if (done > 0)
        at = put(text, at, size, "\n    %d threads have ended", done);
    return at;
}
[[noreturn]] static void stuck(const struct hc_grid *grid, const char *why)
{
    static char text[8192];
    int at = put(text, 0, sizeof text, "%s: %s", grid->count->name, why);
    int told = 0;
    for (const struct hc_block *block : grid->resident) {
        if (block->live == 0)
            continue;
        if (++told > 4) {
            at = put(text, at, sizeof text, "\n  ... and more blocks");
            break;
        }
        at = put(text, at, sizeof text, "\n  block (%u, %u, %u):", block->index.x, block->index.y,
                 block->index.z);
        at = put_waiting(text, at, sizeof text, block);
    }
    failed(text);
}

/* ---- who runs next ------------------------------------------------------------------------------
 */

void hc_ready(struct hc_fiber *fiber)
{
    struct hc_block *block = fiber->block;
    fiber->state = HC_READY;
    block->warp[fiber->warp].ready |= 1u << fiber->lane;
    block->ready_warps |= 1u << fiber->warp;
}
static void not_ready(struct hc_fiber *fiber)
{
    struct hc_block *block = fiber->block;
    struct hc_warp *warp = &block->warp[fiber->warp];
    warp->ready &= ~(1u << fiber->lane);
    if (warp->ready == 0)
        block->ready_warps &= ~(1u << fiber->warp);
}
/* One of the bits that are set, by lot: quickly, fair enough for lanes that are mostly all ready.
 */
static int any_bit(uint32_t bits)
{
    const unsigned turn = hc_random.next() & 31u;
    const uint32_t turned = bits >> turn | (turn == 0 ? 0 : bits << (32 - turn));
    return (int)(((unsigned)__builtin_ctz(turned) + turn) & 31u);
}
static int any_bit_evenly(uint32_t bits)
{
    for (int skip = hc_random.below(__builtin_popcount(bits)); skip > 0; skip--)
        bits &= bits - 1;
    return __builtin_ctz(bits);
}
static struct hc_fiber *any_of_warp(struct hc_block *block, int warp)
{
    return block->fiber[warp * 32 + any_bit(block->warp[warp].ready)];
}
static struct hc_fiber *any_ready(struct hc_grid *grid)
{
    const int n = (int)grid->resident.size(), first = n > 1 ? hc_random.below(n) : 0;
    for (int i = 0; i < n; i++) {
        struct hc_block *block = grid->resident[(size_t)((first + i) % n)];
        if (!block->bulks.empty() && (hc_random.next() & 15u) == 0)
            hc_land_bulk(block);
        if (block->ready_warps != 0)
            return any_of_warp(block, any_bit_evenly(block->ready_warps));
    }
    return nullptr;
}
static bool land_something(struct hc_grid *grid)
{
    bool landed = false;
    for (struct hc_block *block : grid->resident)
        landed |= hc_land_bulk(block);
    return landed;
}
/* The next fiber; NULL: the grid has none that can run, all of it has ended or waits for the grid
 * before it. */
static struct hc_fiber *next_fiber(struct hc_fiber *self, bool stay)
{
    struct hc_block *block = self->block;
    if (stay && block->warp[self->warp].ready != 0 && (hc_random.next() & 63u) != 0)
        return any_of_warp(block, self->warp);
    struct hc_grid *grid = block->grid;
    for (;;) {
        struct hc_fiber *next = any_ready(grid);
        if (next != nullptr)
            return next;
        if (!land_something(grid))
            break;
    }
    int live = 0, held = 0;
    for (const struct hc_block *b : grid->resident)
        live += b->live, held += b->n_waiting_griddep;
    if (live != 0 && (grid->dependency_done || held == 0))
        stuck(grid, "threads wait for what never comes");
    return nullptr;
}
static void run_next(struct hc_fiber *self, bool stay)
{
    struct hc_fiber *next = next_fiber(self, stay);
    if (next == self)
        return;
    if (next == nullptr)
        switch_to_host(self);
    else
        switch_to(self, next);
}
void hc_wait(enum hc_state state, const char *what, const char *file, int line)
{
    struct hc_fiber *self = hc_self;
    self->state = state;
    self->place = { what, file, line };
    not_ready(self);
    run_next(self, true);
}
void hostcuda_poll(const char *what, HOSTCUDA_AT)
{
    struct hc_fiber *self = hc_self;
    struct hc_grid *grid = self->block->grid;
    self->place = { what, file, line };
    if (++grid->polls > hc_settings.steps)
        stuck(grid, (grid->flags & 2) != 0
                        ? "threads poll for what nobody writes (HOSTCUDA_STEPS polls in a row)"
                        : "threads poll for what nobody writes; blocks that wait for one another "
                          "need LAUNCH_WAITING");
    run_next(self, false);
}
void hostcuda_progress(void)
{
    hc_self->block->grid->polls = 0;
}

/* ---- collectives and barriers -------------------------------------------------------------------
 */

static bool same_place(const struct hc_place *a, const char *file, int line)
{
    return a->line == line && (a->file == file || strcmp(a->file, file) == 0);
}
static void check_collective(const struct hc_block *block, const struct hc_collective *c, int first,
                             int threads, const char *what, HOSTCUDA_AT)
{
    if (first + threads > block->threads)
        hostcuda_fail(file, line, "%s: all %d threads take part; the block has %d", what, threads,
                      block->threads);
    for (int w = first / 32; w < (first + threads) / 32; w++)
        if (block->warp[w].done != 0)
            hostcuda_fail(file, line, "%s: lanes 0x%08x of warp %d have ended and never come", what,
                          block->warp[w].done, w);
    if (c->arrived != 0 && (!same_place(&c->place, file, line) || c->threads != threads))
        hostcuda_fail(file, line,
                      "divergent: %s here, while others of the same threads are in %s at %s:%d",
                      what, c->place.what, c->place.file, c->place.line);
}
void hostcuda_collective(int threads, void *deposit, hostcuda_compute compute, bool sync,
                         const char *what, HOSTCUDA_AT)
{
    struct hc_fiber *self = hc_self;
    struct hc_block *block = self->block;
    const int first = self->index - self->index % threads;
    struct hc_warp *warp = &block->warp[first / 32];
    struct hc_collective *c = threads == 32 ? &warp->warp : &warp->group;
    if (c->arrived == 0 || c->place.line != line || warp->done != 0 || threads != 32 ||
        c->place.file != file)
        check_collective(block, c, first, threads, what, file, line);
    char *const at = &c->sync[c->phase & 1];
    if (sync)
        tsan_release(at);
    block->deposits[self->index] = deposit;
    c->place = { what, file, line };
    c->threads = threads;
    if (++c->arrived < threads) {
        hc_wait(HC_COLLECTIVE, what, file, line);
    } else {
        if (compute != nullptr)
            hc_compute(compute, &block->deposits[first], threads);
        c->arrived = 0;
        c->phase++;
        for (int w = first / 32; w < (first + threads) / 32; w++) {
            for (int l = 0; l < 32; l++)
                block->fiber[w * 32 + l]->state = HC_READY;
            block->warp[w].ready = 0xffffffffu;
            block->ready_warps |= 1u << w;
        }
    }
    if (sync)
        tsan_acquire(at);
}
/* A fiber has ended: whoever waits for it would wait for ever. */
static void check_ended(const struct hc_fiber *self)
{
    const struct hc_block *block = self->block;
    const struct hc_warp *warp = &block->warp[self->warp];
    if (warp->warp.arrived != 0)
        hostcuda_fail(warp->warp.place.file, warp->warp.place.line,
                      "%s: a lane has ended while others of its warp wait here",
                      warp->warp.place.what);
    const struct hc_barrier *b = &block->barrier[0];
    if (b->arrived != 0)
        hostcuda_fail(b->place.file, b->place.line,
                      "divergent barrier: a thread has ended while %d others wait at %s",
                      b->arrived, b->place.what);
}
static void check_barrier(const struct hc_block *block, const struct hc_barrier *b, int id,
                          int threads, const char *what, HOSTCUDA_AT)
{
    if (id < 0 || id >= HC_BARRIERS || threads <= 0 || threads % 32 != 0 ||
        threads > HC_THREADS_MAX)
        hostcuda_fail(file, line, "%s: barrier %d of %d threads: there are 0..15, of whole warps",
                      what, id, threads);
    if (b->arrived != 0 && b->expected != threads)
        hostcuda_fail(file, line, "%s: barrier %d of %d threads here, of %d at %s:%d", what, id,
                      threads, b->expected, b->place.file, b->place.line);
    const struct hc_fiber *self = hc_self;
    if (b->waiting[self->warp] != 0) { /* this warp: all at the same line */
        const int lane = __builtin_ctz(b->waiting[self->warp]);
        const struct hc_place *place = &block->fiber[self->warp * 32 + lane]->place;
        if (!same_place(place, file, line))
            hostcuda_fail(file, line,
                          "divergent barrier: %s here, while lanes of the same warp are in "
                          "%s at %s:%d",
                          what, place->what, place->file, place->line);
    }
    if (id == 0 && block->live != block->threads)
        hostcuda_fail(file, line, "divergent barrier: %s, while %d threads have ended", what,
                      block->threads - block->live);
}
void hostcuda_barrier(int id, int threads, bool waits, const char *what, HOSTCUDA_AT)
{
    struct hc_fiber *self = hc_self;
    struct hc_block *block = self->block;
    if (id == 0)
        threads = (block->threads + 31) / 32 * 32;
    struct hc_barrier *b = &block->barrier[id & (HC_BARRIERS - 1)];
    check_barrier(block, b, id, threads, what, file, line);
    const int wanted = id == 0 ? block->threads : threads;
    char *const at = &b->sync[b->phase & 1];
    tsan_release(at);
    if (b->arrived == 0)
        b->place = { what, file, line };
    b->expected = threads;
    if (++b->arrived < wanted) {
        if (waits) {
            b->waiting[self->warp] |= 1u << self->lane;
            hc_wait(HC_BARRIER, what, file, line);
        }
    } else {
        for (int w = 0; w < block->warps; w++)
            for (uint32_t left = b->waiting[w]; left != 0; left &= left - 1)
                hc_ready(block->fiber[w * 32 + __builtin_ctz(left)]);
        hc_fill(b->waiting, 0, sizeof b->waiting);
        b->arrived = 0;
        b->phase++;
        if (waits) { /* not always the last to come is the first to go */
            self->place = { what, file, line };
            run_next(self, false);
        }
    }
    if (waits)
        tsan_acquire(at);
}
void hostcuda_griddep_wait(HOSTCUDA_AT)
{
    struct hc_block *block = hc_self->block;
    if (!block->grid->dependency_done) {
        block->n_waiting_griddep++;
        hc_wait(HC_GRIDDEP, "griddep_wait", file, line);
    }
    tsan_acquire(&hc_settings); /* released by the host when the grid before had ended */
}
void hostcuda_griddep_launch(void)
{
}

/* ---- fibers and blocks --------------------------------------------------------------------------
 */

/* Fibers and blocks to be used again; never freed. Under the race detector a set's blocks come one
 * after the other, and are ordered (`sync`), for they share stacks and shared memory; blocks of
 * different sets have nothing in common but what the kernel gives them. */
static struct fiber_set {
    std::vector<hc_fiber *> fibers;
    std::vector<hc_block *> blocks;
    void *keeper; /* a thread of the race detector: carries the end of a block to the next one */
    char before, after;
} *const sets = new fiber_set[RACE_SETS];
static unsigned sets_used;

static void end_fiber(struct hc_fiber *self)
{
    struct hc_block *block = self->block;
    hc_reset_async(self);
    self->state = HC_DONE;
    self->place = { "ended", "", 0 };
    block->warp[self->warp].done |= 1u << self->lane;
    block->live--;
    not_ready(self);
    check_ended(self);
    block->grid->polls = 0;
    tsan_release(&sets[block->set].after);
}
static void fiber_main(void)
{
    arrived_on(nullptr);
    for (;;) { /* one round a thread of a block */
        struct hc_fiber *self = hc_self;
        tsan_acquire(
            &sets[self->block->set].before); /* what the host and the set's last block did */
        self->block->grid->body(self->block->grid->args);
        end_fiber(self);
        run_next(self, true);
    }
}
static struct hc_fiber *new_fiber(void)
{
    struct hc_fiber *fiber = new hc_fiber();
    unsigned char *memory =
        (unsigned char *)mmap(nullptr, STACK_GUARD + STACK_BYTES, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, STACK_GUARD, PROT_NONE) != 0)
        failed("no memory for stacks");
    fiber->stack = memory + STACK_GUARD;
    fiber->stack_bytes = STACK_BYTES;
    /* What hc_switch pops: six registers, where to go, and an alignment of 8 beyond 16. The tops of
     * the stacks are not all at one place of their pages: they would share a few lines of the
     * cache. */
    static unsigned n_stacks;
    void **sp = (void **)(memory + STACK_GUARD + STACK_BYTES - n_stacks++ % 32 * 128) - 8;
    memset(sp, 0, 8 * sizeof *sp);
    sp[6] = (void *)fiber_main;
    fiber->sp = sp;
    if (__tsan_create_fiber != nullptr)
        fiber->tsan = __tsan_create_fiber(0);
    return fiber;
}
static struct hc_fiber *take_fiber(unsigned set)
{
    std::vector<hc_fiber *> &pool = sets[set].fibers;
    if (pool.empty())
        return new_fiber();
    struct hc_fiber *fiber = pool.back();
    pool.pop_back();
    return fiber;
}
static struct hc_block *take_block(unsigned set)
{
    std::vector<hc_block *> &pool = sets[set].blocks;
    if (!pool.empty()) {
        struct hc_block *block = pool.back();
        pool.pop_back();
        return block;
    }
    struct hc_block *block = new hc_block();
    void *memory = mmap(nullptr, HC_SHARED_MAX + 2 * HC_SHARED_GUARD, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        failed("no memory for a block");
    block->arena = (unsigned char *)memory;
    block->shared = block->arena + HC_SHARED_GUARD;
    return block;
}
static void open_shared(struct hc_block *block, size_t bytes)
{
    const size_t all = HC_SHARED_MAX + 2 * HC_SHARED_GUARD;
    if (__asan_unpoison_memory_region != nullptr)
        __asan_unpoison_memory_region(block->arena, all);
    hc_fill(block->arena, 0xa5, HC_SHARED_GUARD);
    hc_fill(block->shared, 0xff, bytes);
    hc_fill(block->shared + bytes, 0xa5, HC_SHARED_GUARD);
    if (__asan_poison_memory_region != nullptr) {
        __asan_poison_memory_region(block->arena, HC_SHARED_GUARD);
        __asan_poison_memory_region(block->shared + bytes, all - HC_SHARED_GUARD - bytes);
    }
    block->shared_bytes = bytes;
}
static void close_shared(struct hc_block *block)
{
    if (__asan_poison_memory_region != nullptr)
        return; /* would have been told at once */
    for (int i = 0; i < HC_SHARED_GUARD; i++) {
        if (block->arena[i] == 0xa5 && block->shared[block->shared_bytes + (size_t)i] == 0xa5)
            continue;
        char text[256];
        snprintf(text, sizeof text,
                 "%s, block (%u, %u, %u): wrote outside its %zu bytes of shared memory (%s)",
                 block->grid->count->name, block->index.x, block->index.y, block->index.z,
                 block->shared_bytes, block->arena[i] != 0xa5 ? "before" : "behind");
        failed(text);
    }
}
static void order_after_last(struct fiber_set *set)
{
    if (__tsan_create_fiber == nullptr)
        return;
    if (set->keeper == nullptr)
        set->keeper = __tsan_create_fiber(0);
    void *caller = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(set->keeper, 1);
    tsan_acquire(&set->after);
    tsan_release(&set->before);
    __tsan_switch_to_fiber(caller, 1);
}
static void start_block(struct hc_grid *grid, unsigned index)
{
    const unsigned set = __tsan_create_fiber != nullptr ? sets_used++ % RACE_SETS : 0;
    order_after_last(&sets[set]);
    struct hc_block *block = take_block(set);
    block->set = (int)set;
    block->grid = grid;
    block->index = { index % grid->grid.x, index / grid->grid.x % grid->grid.y,
                     index / grid->grid.x / grid->grid.y };
    block->threads = block->live = grid->threads;
    block->warps = (grid->threads + 31) / 32;
    block->ready_warps = 0;
    hc_fill(block->warp, 0, sizeof block->warp);
    hc_fill(block->barrier, 0, sizeof block->barrier);
    block->n_waiting_mbar = block->n_waiting_griddep = 0;
    block->mbars.clear();
    block->mbars.reserve(HC_SHARED_MAX / 1024); /* not moved under the eyes of the race detector */
    block->bulks.reserve(1024);
    for (int t = 0; t < block->threads; t++) {
        struct hc_fiber *fiber = take_fiber(set);
        fiber->block = block;
        fiber->thread = { (unsigned)t, 0, 0 };
        fiber->index = t;
        fiber->lane = t & 31;
        fiber->warp = t >> 5;
        fiber->copy_group = fiber->deferred_group = 0;
        fiber->n_landed = 0;
        fiber->deferred.clear();
        fiber->place = { "not started", "", 0 };
        block->fiber[t] = fiber;
        hc_ready(fiber);
    }
    open_shared(block, grid->shared_bytes);
    grid->resident.push_back(block);
}
static void end_blocks(struct hc_grid *grid)
{
    size_t kept = 0;
    for (struct hc_block *block : grid->resident) {
        if (block->live != 0) {
            grid->resident[kept++] = block;
            continue;
        }
        while (hc_land_bulk(block)) {
        }
        close_shared(block);
        if (hostcuda_counting)
            hc_count_end(block);
        for (int t = 0; t < block->threads; t++)
            sets[block->set].fibers.push_back(block->fiber[t]);
        sets[block->set].blocks.push_back(block);
    }
    grid->resident.resize(kept);
}
/* Runs what is resident until it has ended or waits for the grid before. */
static void run_resident(struct hc_grid *grid)
{
    struct hc_grid *outer = hc_grid;
    hc_grid = grid;
    for (int i = 0; i < RACE_SETS; i++)
        tsan_release(&sets[i].before);
    blockDim = dim3((unsigned)grid->threads);
    gridDim = grid->grid;
    struct hc_fiber *first = any_ready(grid);
    if (first != nullptr)
        switch_from_host(first);
    end_blocks(grid);
    hc_grid = outer;
}
static void prepare(struct hc_grid *grid)
{
    grid->prepared = true;
    const unsigned n = grid->grid.x * grid->grid.y * grid->grid.z;
    for (unsigned i = 0; i < n; i++)
        grid->order.push_back(i);
    for (unsigned i = n; i > 1; i--)
        std::swap(grid->order[i - 1], grid->order[(size_t)hc_random.below((int)i)]);
}
static void start_next(struct hc_grid *grid)
{
    const unsigned index = grid->order.back();
    grid->order.pop_back();
    start_block(grid, index);
}
void hc_start_early(struct hc_grid *grid)
{
    prepare(grid);
    for (int i = 0; i < 2 && !grid->order.empty(); i++)
        start_next(grid);
    run_resident(grid);
}
void hc_run_grid(struct hc_grid *grid)
{
    if (!grid->prepared)
        prepare(grid);
    grid->dependency_done = true;
    tsan_release(&hc_settings);
    for (struct hc_block *block : grid->resident) {
        block->n_waiting_griddep = 0;
        for (int t = 0; t < block->threads; t++)
            if (block->fiber[t]->state == HC_GRIDDEP)
                hc_ready(block->fiber[t]);
    }
    const bool waiting = (grid->flags & 2) != 0;
    for (;;) {
        while (!grid->order.empty() && (waiting || grid->resident.empty()))
            start_next(grid);
        if (grid->resident.empty())
            break;
        run_resident(grid);
    }
    for (int i = 0; i < RACE_SETS; i++)
        tsan_acquire(&sets[i].after);
}
int hc_blocks_per_sm(int threads, size_t shared_bytes)
{
    const int by_threads = 2048 / threads, by_shared = (int)((228u << 10) / (shared_bytes + 1024));
    const int blocks = by_threads < by_shared ? by_threads : by_shared;
    return blocks < 32 ? blocks : 32;
}
unsigned char *hostcuda_shared(void)
{
    return hc_self->block->shared;
}
size_t hostcuda_shared_bytes(void)
{
    return hc_self->block->shared_bytes;
}
uint32_t hostcuda_shared_at(const void *p, size_t bytes, const char *what, HOSTCUDA_AT)
{
    const struct hc_block *block = hc_self->block;
    const size_t at = (size_t)((const unsigned char *)p - block->shared);
    if (at > block->shared_bytes || bytes > block->shared_bytes - at)
        hostcuda_fail(
            file, line,
            "%s: %zu bytes at offset %ld are not in the block's %zu bytes of shared memory", what,
            bytes, (long)at, block->shared_bytes);
    return (uint32_t)at;
}
