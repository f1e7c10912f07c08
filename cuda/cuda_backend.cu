/* cuda_backend.cu - one GPU as a backend: opening, memory, faults.
 *
 * Invariant: device memory is taken in open, reserve and prepare only. Every call of the runtime
 * goes through cuda_ok: the first failure is kept with what was being done, and from then on every
 * op is a no-op until finish() reports it (DESIGN 6). Called from one thread at a time. */
#include "cuda/cuda_backend.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "cuda/state.h"
#include "host/base/log.h"
#include "host/base/pool.h"

enum {
    DRIVER_MIN = 12080, /* what the toolkit of this build can talk to: CUDA 12.8 */
    ARCH_MIN = 80,
    GRAPH_BYTES = 1 << 20, /* a recording of 32 layers: 160 kernel nodes with their arguments */
    DENSE_ROWS = 2048,     /* choose.cu says why */
};

/* ---- faults -----------------------------------------------------------------------------------
 */

void cuda_fail(struct cuda *cuda, const char *format, ...)
{
    if (cuda->failed)
        return;
    char text[400];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    (void)err_set(&cuda->failure, ERR_DEVICE, "cuda: %s", text);
    cuda->failed = true;
}

bool cuda_ok(struct cuda *cuda, cudaError_t status, const char *op, const char *name)
{
    if (status == cudaSuccess)
        return true;
    cuda_fail(cuda, "%s (%s): %s (%s, error %d)", op, name, cudaGetErrorString(status),
              cudaGetErrorName(status), (int)status);
    return false;
}

/* ---- memory -----------------------------------------------------------------------------------
 */

static const char *const region_names[REGION_COUNT] = { "weights", "keys and values",
                                                        "activations" };

static bool take(struct cuda *cuda, void **memory, size_t bytes, const char *what, struct err *err)
{
    *memory = NULL;
    if (cuda->n_blocks == BLOCKS_MAX)
        return err_set(err, ERR_MEMORY, "cuda: more than %d reservations", BLOCKS_MAX);
    void *block = NULL;
    const cudaError_t status = cudaMalloc(&block, bytes > 0 ? bytes : 1);
    if (status == cudaErrorMemoryAllocation) {
        size_t unused = 0, total = 0;
        (void)cudaGetLastError(); /* running out of memory is not sticky */
        (void)cudaMemGetInfo(&unused, &total);
        return err_set(
            err, ERR_MEMORY,
            "cuda: no memory for %s: asked for %zu bytes, the device has %zu, %zu of them "
            "free; try --weights int4, a smaller --ctx or --max-seqs",
            what, bytes, total, unused);
    }
    if (!cuda_ok(cuda, status, "memory", what) ||
        !cuda_ok(cuda, cudaMemsetAsync(block, 0, bytes > 0 ? bytes : 1, cuda->stream), "memset",
                 what)) {
        *err = cuda->failure;
        return false;
    }
    cuda->blocks[cuda->n_blocks++] = block;
    *memory = block;
    return true;
}

bool cuda_take(struct cuda *cuda, void **memory, size_t bytes, const char *what, struct err *err)
{
    if (!take(cuda, memory, bytes, what, err))
        return false;
    cuda->scratch_bytes += bytes;
    return true;
}

static bool cuda_reserve(struct backend *be, enum region region, size_t bytes, void **memory,
                         struct err *err)
{
    struct cuda *cuda = cuda_of(be);
    CHECK(region >= 0 && region < REGION_COUNT);
    if (!take(cuda, memory, bytes, region_names[region], err))
        return false;
    cuda->region_bytes[region] += bytes;
    return true;
}

static size_t partial_wanted(const struct cuda *cuda)
{
    /* Split sums: at most two tiles of 128 x 256 a multiprocessor are unfinished at any time, and
     * the small kernel splits inputs 4 ways (4096 of them) over 32 rows of the widest product, the
     * head's included. A product that wants more takes another kernel (choose.cu). */
    const struct backend_limits *l = &cuda->limits;
    const size_t tiles = (size_t)cuda->info.n_sms * 2 * 128 * 256;
    const int32_t widest = l->cols_max > l->vocab ? l->cols_max : l->vocab;
    const size_t small = (size_t)4 * GEMM_SMALL_ROWS * (size_t)f64_pad(widest, F64_STRIP_ROWS);
    return (tiles > small ? tiles : small) * sizeof(float);
}

static bool cuda_prepare(struct backend *be, const struct backend_limits *limits, struct err *err)
{
    struct cuda *cuda = cuda_of(be);
    const struct backend_limits *l = limits;
    CHECK(!cuda->prepared);
    CHECK(l->rows_max > 0 && l->logit_rows_max > 0 && l->cols_max > 0 && l->vocab > 0);
    CHECK(l->seqs_max > 0 && l->n_kv_groups > 0 && l->n_kv_groups <= KV_GROUPS_MAX);
    cuda->prepared = true;
    cuda->limits = *limits;
    if (cuda_ok(cuda, cudaStreamSynchronize(cuda->stream), "loading", "weights"))
        (void)cuda_ok(cuda, cudaFree(cuda->staging), "memory", "staging");
    cuda->staging = NULL;
    if (cuda->failed) {
        *err = cuda->failure;
        return false;
    }
    if (!attend_fits(l->head_dim, l->n_heads, l->n_kv_heads, cuda->backend.kv_dtype))
        return err_set(err, ERR_UNSUPPORTED,
                       "cuda: attention with %d heads over %d KV heads of %d features is not "
                       "supported; try --device cpu",
                       l->n_heads, l->n_kv_heads, l->head_dim);
    const size_t rows = (size_t)(l->rows_max > l->logit_rows_max ? l->rows_max : l->logit_rows_max);
    const size_t cols = (size_t)f64_pad(l->cols_max, F64_UNIT_COLS);
    const size_t items = (size_t)step_decode_items(cuda, step_decode_rows(cuda));
    cuda->partial_bytes = partial_wanted(cuda);
    const struct {
        void **memory;
        size_t bytes;
        const char *what;
    } wanted[] = {
        { (void **)&cuda->x16, rows * cols * 2, "inputs in fp16" },
        { (void **)&cuda->x8, cuda->options.int8 ? rows * cols : 1, "inputs in int8" },
        { (void **)&cuda->x_scale, rows * (cols / 128) * sizeof(float), "input scales" },
        { (void **)&cuda->x_sum, rows * (cols / 32) * sizeof(int32_t), "input sums" },
        { (void **)&cuda->normed, rows * cols * 2, "normed inputs" },
        { (void **)&cuda->gathered, (size_t)l->logit_rows_max * cols * 2, "inputs of the head" },
        { (void **)&cuda->product, rows * cols * sizeof(float), "products" },
        { (void **)&cuda->partial, cuda->partial_bytes, "split sums" },
        { (void **)&cuda->tickets, GEMM_TICKETS * sizeof(uint32_t), "tickets" },
        { (void **)&cuda->attend_partial,
          items * (size_t)l->n_heads * (size_t)(l->head_dim + 2) * sizeof(float),
          "partial attention" },
        { (void **)&cuda->attend_tickets,
          (size_t)l->rows_max * (size_t)l->n_kv_heads * sizeof(uint32_t), "tickets" },
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (!cuda_take(cuda, wanted[i].memory, wanted[i].bytes, wanted[i].what, err))
            return false;
    if (l->rows_max >= cuda->options.dense_rows) {
        struct err why;
        cuda->dense = dense_open(&why);
        if (cuda->dense == NULL)
            log_info("cublaslt", "used=no reason=\"%s\"", why.text);
        else
            cuda->scratch_bytes += dense_bytes();
    }
    if (!step_reserve(cuda, err) || !sampling_reserve(cuda, err) ||
        (l->n_experts > 0 && !experts_reserve(cuda, err)))
        return false;
    cuda->backend.workspace = cuda->scratch_bytes + (size_t)GRAPHS_MAX * GRAPH_BYTES;
    log_info("memory", "device=cuda weights=%zu activations=%zu workspace=%zu of=%zu",
             cuda->region_bytes[REGION_WEIGHTS], cuda->region_bytes[REGION_ACTIVATIONS],
             cuda->scratch_bytes, cuda->total_bytes);
    return true;
}

static void cuda_upload(struct backend *be, void *to, const void *from, size_t bytes)
{
    struct cuda *cuda = cuda_of(be);
    if (cuda->failed || bytes == 0)
        return;
    /* `from` is the caller's again when we return. */
    if (cuda_ok(cuda, cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, cuda->stream),
                "copy", "upload"))
        (void)cuda_ok(cuda, cudaStreamSynchronize(cuda->stream), "wait", "upload");
}

static void cuda_download(struct backend *be, void *to, const void *from, size_t bytes)
{
    struct cuda *cuda = cuda_of(be);
    if (cuda->failed || bytes == 0)
        return;
    if (cuda_ok(cuda, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, cuda->stream),
                "copy", "download"))
        (void)cuda_ok(cuda, cudaStreamSynchronize(cuda->stream), "wait", "download");
}

/* Codes, scales and zeros of a block side by side in `staging`, then f64_repack. */
static void cuda_pack(struct backend *be, const struct layout_shape *shape,
                      const struct matrix *block, int32_t n_rows, int32_t row_from, void *to)
{
    struct cuda *cuda = cuda_of(be);
    const size_t codes = ((size_t)n_rows * (size_t)shape->n_in + 255) / 256 * 256;
    const size_t scales = (size_t)n_rows * (size_t)block->n_groups * sizeof(float);
    const size_t padded = (scales + 255) / 256 * 256, bytes = codes + 2 * padded;
    CHECK(!cuda->prepared && row_from % F64_STRIP_ROWS == 0);
    if (cuda->failed)
        return;
    if (bytes > cuda->staging_bytes) {
        (void)cuda_ok(cuda, cudaFree(cuda->staging), "memory", "staging");
        cuda->staging = NULL;
        cuda->staging_bytes = 0;
        if (!cuda_ok(cuda, cudaMalloc((void **)&cuda->staging, bytes), "memory", "staging"))
            return;
        cuda->staging_bytes = bytes;
    }
    cuda_upload(be, cuda->staging, block->codes, (size_t)n_rows * (size_t)shape->n_in);
    cuda_upload(be, cuda->staging + codes, block->scales, scales);
    if (!shape->symmetric)
        cuda_upload(be, cuda->staging + codes + padded, block->zeros, scales);
    struct layout_f64 at;
    layout_f64_of(shape, &at);
    struct repack_op op;
    memset(&op, 0, sizeof op);
    op.kind = at.kind;
    op.n_out = shape->n_out;
    op.n_in = shape->n_in;
    op.row_from = row_from;
    op.n_rows = n_rows;
    op.group = shape->group;
    op.bits = shape->bits;
    op.codes = cuda->staging;
    op.scales = (const float *)(const void *)(cuda->staging + codes);
    op.zeros =
        shape->symmetric ? NULL : (const float *)(const void *)(cuda->staging + codes + padded);
    op.units = (uint8_t *)to;
    op.row_factor = (float *)(void *)((uint8_t *)to + at.factors_at);
    struct launch launch;
    launch.stream = cuda->stream;
    launch.device = &cuda->info;
    launch.pdl = false;
    if (!cuda->failed)
        (void)cuda_ok(cuda, f64_repack(&launch, &op), "f64_repack", "loading");
}

static bool cuda_finish(struct backend *be, struct err *err)
{
    struct cuda *cuda = cuda_of(be);
    if (!cuda->failed &&
        cuda_ok(cuda, cudaStreamSynchronize(cuda->stream), "step", "a kernel of this step")) {
        sampling_finish(cuda);
        cuda->step.in_flight = false;
        return true;
    }
    *err = cuda->failure;
    return false;
}

static void cuda_close(struct backend *be)
{
    struct cuda *cuda = cuda_of(be);
    if (cuda->stream != NULL)
        (void)cudaStreamSynchronize(cuda->stream);
    graphs_release(cuda);
    dense_close(cuda->dense);
    free(cuda->kernels_file);
    free(cuda->measured);
    sampling_release(cuda);
    cudaFree(cuda->staging);
    free(cuda->step.rows_alone);
    cudaFreeHost(cuda->step.host);
    for (int32_t g = 0; g < KV_GROUPS_MAX; g++)
        cudaFreeHost(cuda->step.pages_host[g]);
    for (int32_t i = 0; i < cuda->n_blocks; i++)
        cudaFree(cuda->blocks[i]);
    pool_close(cuda->backend.pool);
    if (cuda->copied != NULL)
        cudaEventDestroy(cuda->copied);
    if (cuda->stream != NULL)
        cudaStreamDestroy(cuda->stream);
    free(cuda);
}

/* ---- opening ----------------------------------------------------------------------------------
 */

static bool find_device(int32_t index, cudaDeviceProp *properties, struct err *err)
{
    int driver = 0, n = 0;
    cudaError_t status = cudaGetDeviceCount(&n);
    (void)cudaDriverGetVersion(&driver);
    if (status == cudaErrorInsufficientDriver && driver == 0)
        return err_set(err, ERR_DEVICE, "cuda: this machine has no NVIDIA driver");
    if (status == cudaErrorInsufficientDriver || (status == cudaSuccess && driver < DRIVER_MIN))
        return err_set(err, ERR_DEVICE,
                       "cuda: the driver is for CUDA %d.%d, want %d.%d or newer: update the driver",
                       driver / 1000, driver % 1000 / 10, DRIVER_MIN / 1000,
                       DRIVER_MIN % 1000 / 10);
    if (status == cudaErrorNoDevice || (status == cudaSuccess && n == 0))
        return err_set(err, ERR_DEVICE, "cuda: this machine has no usable GPU");
    if (status != cudaSuccess)
        return err_set(err, ERR_DEVICE, "cuda: %s (%s)", cudaGetErrorString(status),
                       cudaGetErrorName(status));
    if (index < 0 || index >= n)
        return err_set(err, ERR_DEVICE, "cuda: no device %d, there are 0 to %d", index, n - 1);
    status = cudaGetDeviceProperties(properties, index);
    if (status == cudaSuccess)
        status = cudaSetDevice(index);
    if (status != cudaSuccess)
        return err_set(err, ERR_DEVICE, "cuda: device %d: %s", index, cudaGetErrorString(status));
    const int arch = properties->major * 10 + properties->minor;
    if (arch < ARCH_MIN)
        return err_set(err, ERR_DEVICE,
                       "cuda: device %d (%s) is sm_%d, want sm_%d (Ampere) or newer", index,
                       properties->name, arch, ARCH_MIN);
    return true;
}

static const struct backend_ops *cuda_ops(void)
{
    static struct backend_ops ops;
    ops.reserve = cuda_reserve;
    ops.prepare = cuda_prepare;
    ops.upload = cuda_upload;
    ops.download = cuda_download;
    ops.pack = cuda_pack;
    ops.tune = cuda_tune;
    ops.embed = cuda_embed;
    ops.linear = cuda_linear;
    ops.attend = cuda_attend;
    ops.route = cuda_route;
    ops.linear_experts = cuda_linear_experts;
    ops.logits = cuda_logits;
    ops.sample = cuda_sample;
    ops.replay = cuda_replay;
    ops.record = cuda_record;
    ops.record_end = cuda_record_end;
    ops.collect = cuda_collect;
    ops.finish = cuda_finish;
    ops.close = cuda_close;
    return &ops;
}

bool cuda_backend_open(struct backend **out, const struct cuda_options *options, struct err *err)
{
    cudaDeviceProp p;
    *out = NULL;
    if (!find_device(options->device, &p, err))
        return false;
    struct cuda *cuda = (struct cuda *)calloc(1, sizeof *cuda);
    if (cuda == NULL)
        return err_set(err, ERR_MEMORY, "no memory for a backend");
    cuda->options = *options;
    cuda->options.kernels = NULL;
    if (options->kernels != NULL && (cuda->kernels_file = strdup(options->kernels)) == NULL) {
        free(cuda);
        return err_set(err, ERR_MEMORY, "no memory for a backend");
    }
    if (options->dense_rows == 0)
        cuda->options.dense_rows = DENSE_ROWS;
    cuda->graphs_off = options->no_graphs;
    cuda->info.n_sms = p.multiProcessorCount;
    cuda->info.arch = p.major * 10 + p.minor;
    cuda->info.shared_bytes = (int32_t)p.sharedMemPerBlockOptin;
    cuda->info.wgmma = p.major == 9;
    cuda->total_bytes = p.totalGlobalMem;
    snprintf(cuda->name, sizeof cuda->name, "cuda:%d %.80s, sm_%d, %s activations%s",
             options->device, p.name, cuda->info.arch, options->int8 ? "int8" : "fp16",
             options->invariant ? ", invariant" : "");
    struct backend *be = &cuda->backend;
    be->ops = cuda_ops();
    be->name = cuda->name;
    be->f64 = true;
    be->steps_max = STEPS_MAX;
    be->activation = DTYPE_BF16;
    be->kv_dtype = DTYPE_BF16;
    size_t unused = 0, total = 0;
    if (!cuda_ok(cuda, cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking), "open",
                 "stream") ||
        !cuda_ok(cuda, cudaEventCreateWithFlags(&cuda->copied, cudaEventDisableTiming), "open",
                 "event") ||
        !cuda_ok(cuda, cudaMemGetInfo(&unused, &total), "open", "memory")) {
        *err = cuda->failure;
        cuda_close(be);
        return false;
    }
    if (!pool_open(&be->pool, 0, err)) { /* quantizes while loading, then sleeps */
        cuda_close(be);
        return false;
    }
    be->device_free = unused;
    *out = be;
    return true;
}

const char *const *cuda_backend_paths(void)
{
    return path_names;
}

const int64_t *cuda_backend_counts(const struct backend *be)
{
    return ((const struct cuda *)(const void *)be)->counts;
}
