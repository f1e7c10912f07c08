/* hostcuda.h - the emulator's own interface: what device.cuh and launch.cuh of this folder are made
 * of, and what tests ask it. README.md says how to build with it.
 *
 * Environment, read once:
 *   HOSTCUDA_SEED=n       order of blocks, warps, lanes; when asynchronous copies land (1)
 *   HOSTCUDA_SMS=n        multiprocessors (4)
 *   HOSTCUDA_ARCH=n       80, 86, 89, 90, 120 (90)
 *   HOSTCUDA_MEMORY=n     bytes of the device (4 GiB)
 *   HOSTCUDA_DEVICES=0    there is no device; "old": the driver is too old
 *   HOSTCUDA_FAULT_AT=n   the n-th runtime call fails with cudaErrorLaunchFailure, and all after it
 *   HOSTCUDA_STEPS=n      polls of waiting threads without progress before that is a failure
 * (2000000) HOSTCUDA_TRUNCATE=1   mma sums keep 24 bits, cut off, as tensor cores do
 *   HOSTCUDA_COUNTERS=1   launches, bytes and bank conflicts of each kernel, printed at exit
 *
 * A failure (a lane that never comes, a divergent barrier, a lock that nobody frees, a bad address)
 * is printed with kernel, block, thread and source line, and the program aborts, unless a test has
 * set a handler that does not return. */
#pragma once
#include <cuda_runtime.h>

/* Default arguments that name the caller's line. */
#define HOSTCUDA_HERE  const char *file_ = __builtin_FILE(), int line_ = __builtin_LINE()
#define HOSTCUDA_THERE file_, line_
#define HOSTCUDA_AT    const char *file, int line

/* ---- for tests ----------------------------------------------------------------------------------
 */

/* Called with the text of a failure; when it returns, the program aborts. NULL: none. */
void hostcuda_on_failure(void (*handler)(const char *text));
void hostcuda_seed(uint64_t seed);
/* The n-th runtime call from now on (1 is the next) fails, and all after it. 0: none, and a fault
 * that was is over. */
void hostcuda_fault_at(long n);
/* Runtime calls and launches so far: those that can fail. */
long hostcuda_calls(void);
/* How often a kernel has run: by its name, or by the name before the template arguments. */
long hostcuda_launches(const char *kernel);
/* fn(name, launches) for each kernel that ever ran. */
void hostcuda_each_kernel(void (*fn)(const char *name, long launches, void *context),
                          void *context);

/* ---- for launch.cuh -----------------------------------------------------------------------------
 */

/* body(args) is run once a thread; args is copied now. */
struct hostcuda_kernel {
    const char *pretty; /* __PRETTY_FUNCTION__ of the launch template */
    const void *address;
    void (*body)(const void *args);
    void (*copy)(void *to, const void *from); /* of args */
    size_t args_bytes;
};
cudaError_t hostcuda_launch(const struct hostcuda_kernel *kernel, dim3 grid, int threads,
                            size_t shared_bytes, cudaStream_t stream, int flags, const void *args);

/* ---- for device.cuh -----------------------------------------------------------------------------
 */

/* A failure of the running thread. */
[[noreturn]] void hostcuda_fail(HOSTCUDA_AT, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
unsigned char *hostcuda_shared(void);
size_t hostcuda_shared_bytes(void);
/* Offset in shared memory; fails when it is elsewhere. */
uint32_t hostcuda_shared_at(const void *p, size_t bytes, const char *what, HOSTCUDA_AT);

void hostcuda_barrier(int id, int threads, bool waits, const char *what, HOSTCUDA_AT);
void hostcuda_griddep_wait(HOSTCUDA_AT);
void hostcuda_griddep_launch(void);
/* Another thread may run now: of a loop that polls. */
void hostcuda_poll(const char *what, HOSTCUDA_AT);
/* What a poll may have waited for has happened. */
void hostcuda_progress(void);

/* A collective of `threads` threads, 32 (the warp) or a multiple (aligned: 128 is the warpgroup):
 * every one deposits a pointer; the last to come calls compute(pointers by thread, threads), then
 * all go on. All must come from the same line. Memory of the other threads' stacks may be read and
 * written through the pointers. sync: it orders memory among them, as warp_sync does. */
typedef void (*hostcuda_compute)(void *const *deposits, int threads);
void hostcuda_collective(int threads, void *deposit, hostcuda_compute compute, bool sync,
                         const char *what, HOSTCUDA_AT);

/* Work of a collective that lands late (wgmma): issue copies `bytes` (at most 192) of deposit and
 * computes nothing; the wait that covers its commit, a collective itself, does: in the order of
 * issue, compute(pointers to the copies, threads). */
void hostcuda_group_issue(int threads, const void *deposit, size_t bytes, hostcuda_compute compute,
                          const char *what, HOSTCUDA_AT);
void hostcuda_group_commit(int threads, HOSTCUDA_AT);
void hostcuda_group_wait(int threads, int most_pending, HOSTCUDA_AT);

uint32_t hostcuda_shfl(uint32_t v, int from_lane, HOSTCUDA_AT);
uint32_t hostcuda_ballot(bool p, HOSTCUDA_AT);

void hostcuda_cp_async(void *to, const void *from, int bytes, bool valid, HOSTCUDA_AT);
void hostcuda_cp_commit(HOSTCUDA_AT);
void hostcuda_cp_wait(int most_pending, HOSTCUDA_AT);
void hostcuda_mbar_init(uint64_t *bar, int count, HOSTCUDA_AT);
void hostcuda_mbar_arrive(uint64_t *bar, int bytes, HOSTCUDA_AT);
void hostcuda_mbar_wait(uint64_t *bar, uint32_t parity, HOSTCUDA_AT);
void hostcuda_bulk_copy(void *to, const void *from, int bytes, uint64_t *bar, HOSTCUDA_AT);

void hostcuda_ldsm(uint32_t *r, const void *row, bool trans, HOSTCUDA_AT);
uint32_t hostcuda_mat_transpose(uint32_t v, HOSTCUDA_AT);
enum hostcuda_mma { HOSTCUDA_F16, HOSTCUDA_BF16, HOSTCUDA_U8S8, HOSTCUDA_S8S8 };
void hostcuda_mma(enum hostcuda_mma type, void *d, const uint32_t *a, uint32_t b0, uint32_t b1,
                  HOSTCUDA_AT);
/* One sum as a tensor core makes it: c + sum of a[k] * b[k]; the products are exact. */
float hostcuda_dot(const float *a, const float *b, int n, float c);

/* Bytes for the counters. */
void hostcuda_count_stream(int bytes);
void hostcuda_count_shared(const void *p, int bytes, HOSTCUDA_AT);
extern bool hostcuda_counting;

/* What the address sanitizer or the race detector shall see at the caller's line. */
#if defined(__SANITIZE_THREAD__)
extern "C" void __tsan_read16(void *);
#define HOSTCUDA_TOUCH16(p) __tsan_read16(const_cast<void *>((const void *)(p)))
#elif defined(__SANITIZE_ADDRESS__)
extern "C" void __asan_load16(void *);
#define HOSTCUDA_TOUCH16(p) __asan_load16(const_cast<void *>((const void *)(p)))
#else
#define HOSTCUDA_TOUCH16(p) ((void)0)
#endif
