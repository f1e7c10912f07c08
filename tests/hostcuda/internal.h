/* internal.h - what the emulator's files share: fibers, blocks, the running grid.
 *
 * None of these files is compiled with a sanitizer: the functions of the sanitizers are weak
 * symbols, present when the program is. So one library serves every build, and the race detector
 * sees only what kernels do, and what is said here on their behalf. */
#pragma once
#include "hostcuda.h"
#include <vector>

enum {
    HC_THREADS_MAX = 1024,
    HC_WARPS_MAX = HC_THREADS_MAX / 32,
    HC_BARRIERS = 16,
    HC_SHARED_MAX = 227 << 10,
    HC_SHARED_GUARD = 1024, /* bytes of canary on either side */
};

extern "C" {
void *__tsan_create_fiber(unsigned flags) __attribute__((weak));
void *__tsan_get_current_fiber(void) __attribute__((weak));
void __tsan_switch_to_fiber(void *fiber, unsigned flags) __attribute__((weak));
void __tsan_acquire(void *at) __attribute__((weak));
void __tsan_release(void *at) __attribute__((weak));
void __tsan_read_range(void *at, long bytes) __attribute__((weak));
void __tsan_write_range(void *at, long bytes) __attribute__((weak));
void AnnotateIgnoreReadsBegin(const char *file, int line) __attribute__((weak));
void AnnotateIgnoreReadsEnd(const char *file, int line) __attribute__((weak));
void AnnotateIgnoreWritesBegin(const char *file, int line) __attribute__((weak));
void AnnotateIgnoreWritesEnd(const char *file, int line) __attribute__((weak));
void __sanitizer_start_switch_fiber(void **save, const void *bottom, size_t size)
    __attribute__((weak));
void __sanitizer_finish_switch_fiber(void *save, const void **bottom, size_t *size)
    __attribute__((weak));
void __asan_poison_memory_region(const volatile void *at, size_t bytes) __attribute__((weak));
void __asan_unpoison_memory_region(const volatile void *at, size_t bytes) __attribute__((weak));
void *__asan_region_is_poisoned(void *at, size_t bytes) __attribute__((weak));
}
static inline void tsan_acquire(const void *at)
{
    if (__tsan_acquire != nullptr)
        __tsan_acquire(const_cast<void *>(at));
}
static inline void tsan_release(const void *at)
{
    if (__tsan_release != nullptr)
        __tsan_release(const_cast<void *>(at));
}

/* memset and memcpy that the sanitizers do not see: of the emulator's own accounts, and of shared
 * memory before a block begins. */
static inline void hc_fill(void *to, int value, size_t bytes)
{
    asm volatile("rep stosb" : "+D"(to), "+c"(bytes) : "a"(value) : "memory");
}
static inline void hc_move(void *to, const void *from, size_t bytes)
{
    asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
}

/* What a collective computes on all its threads' behalf is no access of the one that came last. */
static inline void hc_compute(hostcuda_compute compute, void *const *deposits, int threads)
{
    if (AnnotateIgnoreReadsBegin != nullptr) {
        AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
        AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
    }
    compute(deposits, threads);
    if (AnnotateIgnoreReadsBegin != nullptr) {
        AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
        AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
    }
}

struct hc_random {
    uint64_t state;
    uint32_t next()
    {
        state = state * 6364136223846793005u + 1442695040888963407u;
        return (uint32_t)(state >> 33);
    }
    int below(int n)
    {
        return (int)((uint64_t)next() * (uint64_t)n >> 31);
    }
};
extern struct hc_random hc_random;

struct hc_copy { /* a cp.async on its way */
    unsigned char *to;
    const unsigned char *from;
    int bytes; /* 4 or 16 */
    bool valid;
    int group;
    const char *file;
    int line;
};
struct hc_deferred { /* a wgmma on its way */
    alignas(16) unsigned char deposit[192];
    hostcuda_compute compute;
    int group;
};
enum hc_state { HC_READY, HC_COLLECTIVE, HC_BARRIER, HC_MBAR, HC_GRIDDEP, HC_DONE };
struct hc_place {
    const char *what, *file;
    int line;
};
struct hc_block;
struct hc_fiber {
    void *sp;
    struct hc_block *block;
    uint3 thread;
    int index, lane, warp;
    enum hc_state state;
    struct hc_place place; /* of the wait, or of the last one */
    void *deposit;
    uint64_t *mbar;
    uint32_t parity;
    std::vector<hc_copy> copies;
    int copy_group; /* groups committed so far; the copies to come belong to the next */
    std::vector<hc_deferred> deferred;
    size_t n_landed; /* of them */
    int deferred_group;
    void *stack, *tsan, *fake_stack;
    size_t stack_bytes;
};
struct hc_collective {
    int arrived, threads, phase;
    struct hc_place place;
    char sync[2]; /* addresses for the race detector, by phase */
};
struct hc_barrier {
    int arrived, expected, phase;
    struct hc_place place; /* of the first to come */
    uint32_t waiting[HC_WARPS_MAX];
    char sync[2];
};
struct hc_bulk {
    unsigned char *to;
    const unsigned char *from;
    int bytes;
    uint64_t *bar;
    struct hc_place place;
};
struct hc_mbar {
    uint64_t *at;
    int count, pending, expected_bytes;
    uint32_t phase; /* parity of the phase that has not ended */
};
struct hc_warp {
    uint32_t ready, done, exists;
    struct hc_collective warp, group; /* group: of the larger collective that starts at this warp */
};
struct hc_block {
    struct hc_grid *grid;
    uint3 index;
    int threads, warps, live;
    int set; /* of fibers, under the race detector */
    uint32_t ready_warps;
    struct hc_warp warp[HC_WARPS_MAX];
    struct hc_barrier barrier[HC_BARRIERS];
    struct hc_fiber *fiber[HC_THREADS_MAX];
    void *deposits[HC_THREADS_MAX];
    unsigned char *arena, *shared; /* the whole allocation; 1024-aligned part the kernel has */
    size_t shared_bytes;
    int n_waiting_mbar, n_waiting_griddep;
    std::vector<hc_bulk> bulks;
    std::vector<hc_mbar> mbars;
};
struct hc_kernel_count {
    char name[160];
    long launches;
    uint64_t stream_bytes, copy_bytes, bulk_bytes, plain_bytes, shared_reads, shared_conflicts;
};
/* One launch. */
struct hc_grid {
    void (*body)(const void *args);
    const void *args;
    struct hc_kernel_count *count;
    dim3 grid;
    int threads, flags;
    size_t shared_bytes;
    std::vector<hc_block *> resident;
    std::vector<unsigned> order; /* blocks still to come, the next one last */
    bool prepared, dependency_done;
    long polls;
};
extern struct hc_fiber *hc_self;
extern struct hc_grid *hc_grid;

void hc_run_grid(struct hc_grid *grid);
/* PDL: some first blocks run as far as griddep_wait; hc_run_grid does the rest. */
void hc_start_early(struct hc_grid *grid);
int hc_blocks_per_sm(int threads, size_t shared_bytes);

/* The running fiber waits: its state and place are set. Returns when somebody has made it ready. */
void hc_wait(enum hc_state state, const char *what, const char *file, int line);
void hc_ready(struct hc_fiber *fiber);
/* Landings. */
bool hc_land_bulk(struct hc_block *block); /* one of them; false: there is none */
void hc_land_copies(struct hc_fiber *fiber, int through_group, bool some);
void hc_reset_async(struct hc_fiber *fiber);
void hc_fail_at(const struct hc_fiber *fiber, const char *file, int line, const char *text);

/* Counters: eight pieces of 16 bytes that shared memory serves in one round; the end of a block. */
void hc_count_round(struct hc_kernel_count *count, const unsigned char *const *pieces, int n);
void hc_count_end(const struct hc_block *block);
struct hc_kernel_count *hc_count_of(const char *name); /* NULL: never launched */

/* Settings. */
struct hc_settings {
    int sms, arch, devices; /* devices: 0 none, -1 old driver */
    size_t memory;
    long fault_at, steps;
    bool truncate;
};
extern struct hc_settings hc_settings;
void hc_settings_read(void);
