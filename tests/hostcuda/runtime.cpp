/* runtime.cpp - the device, its memory, launches, errors; streams and graphs are in streams.cpp. */
#include "runtime.h"
#include <deque>
#include <map>
#include <stdio.h>

/* ---- settings, faults ---------------------------------------------------------------------------
 */

struct hc_settings hc_settings;

static long environment(const char *name, long otherwise)
{
    const char *value = getenv(name);
    return value == nullptr || *value == '\0' ? otherwise : strtol(value, nullptr, 0);
}
static long n_calls;
static cudaError_t sticky, last_error;
static std::recursive_mutex lock_of_all;

static void print_counters(void);

void hc_settings_read(void)
{
    static bool read;
    if (read)
        return;
    read = true;
    const char *devices = getenv("HOSTCUDA_DEVICES");
    hc_settings.devices = devices == nullptr ? 1 : strcmp(devices, "old") == 0 ? -1 : atoi(devices);
    hc_settings.sms = (int)environment("HOSTCUDA_SMS", 4);
    hc_settings.arch = (int)environment("HOSTCUDA_ARCH", 90);
    hc_settings.memory = (size_t)environment("HOSTCUDA_MEMORY", 4l << 30);
    hc_settings.steps = environment("HOSTCUDA_STEPS", 2000000);
    hc_settings.truncate = environment("HOSTCUDA_TRUNCATE", 0) != 0;
    if (hc_settings.fault_at == 0)
        hc_settings.fault_at = environment("HOSTCUDA_FAULT_AT", 0);
    /* Counting is no thread's work: the race detector would take it for the kernel's. */
    hostcuda_counting = environment("HOSTCUDA_COUNTERS", 0) != 0 && __tsan_acquire == nullptr;
    if (hostcuda_counting)
        atexit(print_counters);
    hc_random.state ^= (uint64_t)environment("HOSTCUDA_SEED", 1) * 0x9e3779b97f4a7c15u;
}
void hostcuda_seed(uint64_t seed)
{
    hc_settings_read();
    hc_random.state = seed * 0x9e3779b97f4a7c15u + 1;
}
void hostcuda_fault_at(long n)
{
    hc_settings_read();
    const bool lost = sticky != cudaSuccess;
    hc_settings.fault_at = n == 0 ? 0 : n_calls + n;
    sticky = last_error = cudaSuccess;
    if (lost)
        hc_streams_forget(); /* what was queued or captured died with the device */
}
long hostcuda_calls(void)
{
    return n_calls;
}
hc_call::hc_call() : lock(lock_of_all), status(cudaSuccess)
{
    hc_settings_read();
    if (hc_settings.devices <= 0) {
        status =
            hc_error(hc_settings.devices < 0 ? cudaErrorInsufficientDriver : cudaErrorNoDevice);
        return;
    }
    if (++n_calls == hc_settings.fault_at)
        sticky = cudaErrorLaunchFailure;
    status = sticky;
}
cudaError_t hc_error(cudaError_t status)
{
    if (status != cudaSuccess && status != cudaErrorNotReady)
        last_error = status;
    return status;
}
cudaError_t cudaGetLastError(void)
{
    const cudaError_t status = sticky != cudaSuccess ? sticky : last_error;
    last_error = cudaSuccess;
    return status;
}
cudaError_t cudaPeekAtLastError(void)
{
    return sticky != cudaSuccess ? sticky : last_error;
}
#define CALL                                                                                       \
    struct hc_call call;                                                                           \
    if (call.status != cudaSuccess)                                                                \
    return call.status

static const struct {
    cudaError_t error;
    const char *name, *text;
} errors[] = {
    { cudaSuccess, "cudaSuccess", "no error" },
    { cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument" },
    { cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory" },
    { cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error" },
    { cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
      "invalid configuration argument" },
    { cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
      "CUDA driver version is insufficient for CUDA runtime version" },
    { cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected" },
    { cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal" },
    { cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle" },
    { cudaErrorNotReady, "cudaErrorNotReady", "device not ready" },
    { cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
      "an illegal memory access was encountered" },
    { cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure" },
    { cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
      "operation not permitted when stream is capturing" },
    { cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
      "operation failed due to a previous error during capture" },
    { cudaErrorStreamCaptureUnmatched, "cudaErrorStreamCaptureUnmatched",
      "capture was not initiated in this stream" },
    { cudaErrorStreamCaptureUnjoined, "cudaErrorStreamCaptureUnjoined",
      "capturing stream has unjoined work" },
    { cudaErrorStreamCaptureImplicit, "cudaErrorStreamCaptureImplicit",
      "operation would make the legacy stream depend on a capturing blocking stream" },
};
const char *cudaGetErrorName(cudaError_t error)
{
    for (const auto &e : errors)
        if (e.error == error)
            return e.name;
    return "cudaErrorUnknown";
}
const char *cudaGetErrorString(cudaError_t error)
{
    for (const auto &e : errors)
        if (e.error == error)
            return e.text;
    return "unknown error";
}

/* ---- the device ---------------------------------------------------------------------------------
 */

static size_t shared_optin(void)
{
    switch (hc_settings.arch) {
    case 90:
    case 100:
        return 227u << 10;
    case 80:
        return 163u << 10;
    default:
        return 99u << 10;
    }
}
cudaError_t cudaDriverGetVersion(int *version)
{
    hc_settings_read();
    *version = hc_settings.devices == 0 ? 0 : hc_settings.devices < 0 ? 11000 : CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 0;
    CALL;
    *count = hc_settings.devices;
    return cudaSuccess;
}
cudaError_t cudaGetDevice(int *device)
{
    CALL;
    *device = 0;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int device)
{
    CALL;
    return hc_error(device >= 0 && device < hc_settings.devices ? cudaSuccess
                                                                : cudaErrorInvalidDevice);
}
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device)
{
    CALL;
    if (device < 0 || device >= hc_settings.devices)
        return hc_error(cudaErrorInvalidDevice);
    struct cudaDeviceProp p = {};
    snprintf(p.name, sizeof p.name, "hostcuda (emulated, sm_%d)", hc_settings.arch);
    p.totalGlobalMem = hc_settings.memory;
    p.sharedMemPerBlock = 48u << 10;
    p.sharedMemPerBlockOptin = shared_optin();
    p.sharedMemPerMultiprocessor = shared_optin() + 1024;
    p.regsPerBlock = p.regsPerMultiprocessor = 65536;
    p.warpSize = 32;
    p.maxThreadsPerBlock = HC_THREADS_MAX;
    p.maxThreadsPerMultiProcessor = 2048;
    p.maxBlocksPerMultiProcessor = 32;
    p.major = hc_settings.arch / 10;
    p.minor = hc_settings.arch % 10;
    p.multiProcessorCount = hc_settings.sms;
    p.l2CacheSize = 1 << 20;
    p.memoryBusWidth = 64;
    *prop = p;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attr, int device)
{
    CALL;
    if (device < 0 || device >= hc_settings.devices)
        return hc_error(cudaErrorInvalidDevice);
    switch (attr) {
    case cudaDevAttrMaxThreadsPerBlock:
        *value = HC_THREADS_MAX;
        return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = 48 << 10;
        return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = (int)shared_optin();
        return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = (int)shared_optin() + 1024;
        return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
        *value = hc_settings.sms;
        return cudaSuccess;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
        *value = 2048;
        return cudaSuccess;
    case cudaDevAttrMaxRegistersPerMultiprocessor:
        *value = 65536;
        return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
        *value = hc_settings.arch / 10;
        return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
        *value = hc_settings.arch % 10;
        return cudaSuccess;
    case cudaDevAttrClockRate:
    case cudaDevAttrMemoryClockRate:
        *value = 1000000;
        return cudaSuccess;
    case cudaDevAttrGlobalMemoryBusWidth:
        *value = 64;
        return cudaSuccess;
    case cudaDevAttrL2CacheSize:
        *value = 1 << 20;
        return cudaSuccess;
    }
    return hc_error(cudaErrorInvalidValue);
}
cudaError_t cudaDeviceSynchronize(void)
{
    CALL;
    if (hc_capture_forbids())
        return hc_error(cudaErrorStreamCaptureUnsupported);
    hc_run_all();
    return cudaSuccess;
}
cudaError_t cudaDeviceReset(void)
{
    CALL;
    hc_run_all();
    return cudaSuccess;
}

/* ---- memory -------------------------------------------------------------------------------------
 * Every allocation is one of malloc's, of the exact size, filled with NaN. */

typedef std::map<uintptr_t, size_t> allocations;
static allocations &device_memory = *new allocations, &host_memory = *new allocations;
static size_t device_bytes;

/* Whether all of it lies in one allocation. */
static bool holds(const allocations &all, const void *p, size_t bytes)
{
    auto next = all.upper_bound((uintptr_t)p);
    if (next == all.begin())
        return false;
    --next;
    const uintptr_t at = (uintptr_t)p - next->first;
    return at <= next->second && bytes <= next->second - at;
}
static cudaError_t allocate(allocations &all, void **out, size_t bytes)
{
    *out = nullptr;
    if (bytes == 0)
        return cudaSuccess;
    if (posix_memalign(out, 256, bytes) != 0)
        return hc_error(cudaErrorMemoryAllocation);
    memset(*out, 0xff, bytes);
    all[(uintptr_t)*out] = bytes;
    return cudaSuccess;
}
static cudaError_t release(allocations &all, void *memory, size_t *bytes)
{
    if (memory == nullptr)
        return cudaSuccess;
    auto found = all.find((uintptr_t)memory);
    if (found == all.end())
        return hc_error(cudaErrorInvalidValue);
    *bytes = found->second;
    all.erase(found);
    free(memory);
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    CALL;
    *total_bytes = hc_settings.memory;
    *free_bytes = hc_settings.memory - device_bytes;
    return cudaSuccess;
}
cudaError_t cudaMalloc(void **out, size_t bytes)
{
    CALL;
    if (hc_capture_forbids())
        return hc_error(cudaErrorStreamCaptureUnsupported);
    *out = nullptr;
    if (bytes > hc_settings.memory - device_bytes)
        return hc_error(cudaErrorMemoryAllocation);
    const cudaError_t status = allocate(device_memory, out, bytes);
    device_bytes += status == cudaSuccess ? bytes : 0;
    return status;
}
cudaError_t cudaFree(void *memory)
{
    CALL;
    if (hc_capture_forbids())
        return hc_error(cudaErrorStreamCaptureUnsupported);
    hc_run_all(); /* as on the device, freeing waits */
    size_t bytes = 0;
    const cudaError_t status = release(device_memory, memory, &bytes);
    device_bytes -= bytes;
    return status;
}
cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned)
{
    CALL;
    if (hc_capture_forbids())
        return hc_error(cudaErrorStreamCaptureUnsupported);
    return allocate(host_memory, out, bytes);
}
cudaError_t cudaMallocHost(void **out, size_t bytes)
{
    return cudaHostAlloc(out, bytes, 0);
}
cudaError_t cudaFreeHost(void *memory)
{
    CALL;
    hc_run_all();
    size_t bytes = 0;
    return release(host_memory, memory, &bytes);
}
static bool copy_is_valid(const void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind)
{
    if (bytes == 0)
        return true;
    const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    return to != nullptr && from != nullptr && (!to_device || holds(device_memory, to, bytes)) &&
           (!from_device || holds(device_memory, from, bytes));
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind)
{
    CALL;
    if (hc_capture_forbids())
        return hc_error(cudaErrorStreamCaptureImplicit);
    if (!copy_is_valid(to, from, bytes, kind))
        return hc_error(cudaErrorInvalidValue);
    hc_run_blocking();
    if (bytes != 0)
        memcpy(to, from, bytes);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    CALL;
    if (!hc_stream_ok(stream))
        return hc_error(cudaErrorInvalidResourceHandle);
    if (!copy_is_valid(to, from, bytes, kind))
        return hc_error(cudaErrorInvalidValue);
    if (bytes == 0)
        return cudaSuccess;
    struct hc_op op;
    op.run = [=]() { memcpy(to, from, bytes); };
    hc_enqueue(stream, op);
    return cudaSuccess;
}
cudaError_t cudaMemset(void *to, int value, size_t bytes)
{
    CALL;
    if (hc_capture_forbids())
        return hc_error(cudaErrorStreamCaptureImplicit);
    if (bytes != 0 && !holds(device_memory, to, bytes))
        return hc_error(cudaErrorInvalidValue);
    hc_run_blocking();
    if (bytes != 0)
        memset(to, value, bytes);
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream)
{
    CALL;
    if (!hc_stream_ok(stream))
        return hc_error(cudaErrorInvalidResourceHandle);
    if (bytes == 0)
        return cudaSuccess;
    if (!holds(device_memory, to, bytes))
        return hc_error(cudaErrorInvalidValue);
    struct hc_op op;
    op.run = [=]() { memset(to, value, bytes); };
    hc_enqueue(stream, op);
    return cudaSuccess;
}

/* ---- launches -----------------------------------------------------------------------------------
 */

static std::deque<hc_kernel_count> &kernels = *new std::deque<hc_kernel_count>;

/* "... [with auto Kernel = gemm_small<4, 2>; Args = ...]" -> "gemm_small<4, 2>" */
static std::string kernel_name(const char *pretty)
{
    const char *from = strstr(pretty, "Kernel = ");
    std::string name = from == nullptr ? pretty : from + strlen("Kernel = ");
    const size_t end = name.find("; Args");
    if (end != std::string::npos)
        name.resize(end);
    static const char anonymous[] = "{anonymous}::";
    for (size_t at; (at = name.find(anonymous)) != std::string::npos;)
        name.erase(at, strlen(anonymous));
    return name;
}
static struct hc_kernel_count *count_of(const char *pretty)
{
    static std::map<const char *, hc_kernel_count *> &known =
        *new std::map<const char *, hc_kernel_count *>;
    hc_kernel_count *&count = known[pretty];
    if (count != nullptr)
        return count;
    const std::string name = kernel_name(pretty);
    for (hc_kernel_count &k : kernels)
        if (name == k.name)
            return count = &k;
    kernels.emplace_back();
    count = &kernels.back();
    snprintf(count->name, sizeof count->name, "%s", name.c_str());
    return count;
}
struct hc_kernel_count *hc_count_of(const char *name)
{
    for (hc_kernel_count &k : kernels)
        if (strcmp(k.name, name) == 0)
            return &k;
    return nullptr;
}
long hostcuda_launches(const char *kernel)
{
    const size_t n = strlen(kernel);
    long launches = 0;
    for (const hc_kernel_count &k : kernels)
        if (strncmp(k.name, kernel, n) == 0 && (k.name[n] == '\0' || k.name[n] == '<'))
            launches += k.launches;
    return launches;
}
void hostcuda_each_kernel(void (*fn)(const char *name, long launches, void *context), void *context)
{
    for (const hc_kernel_count &k : kernels)
        fn(k.name, k.launches, context);
}
static void print_counters(void)
{
    fprintf(stderr, "hostcuda_calls=%ld\n", n_calls);
    fprintf(stderr, "%-48s %8s %12s %12s %12s %12s %10s %10s\n", "kernel", "launches", "ldg_stream",
            "cp_async", "bulk_copy", "ld/st128", "rounds", "conflicts");
    for (const hc_kernel_count &k : kernels)
        fprintf(stderr, "%-48s %8ld %12llu %12llu %12llu %12llu %10llu %10llu\n", k.name,
                k.launches, (unsigned long long)k.stream_bytes, (unsigned long long)k.copy_bytes,
                (unsigned long long)k.bulk_bytes, (unsigned long long)k.plain_bytes,
                (unsigned long long)k.shared_reads, (unsigned long long)k.shared_conflicts);
}
cudaError_t hostcuda_launch(const struct hostcuda_kernel *kernel, dim3 grid, int threads,
                            size_t shared_bytes, cudaStream_t stream, int flags, const void *args)
{
    CALL;
    if (!hc_stream_ok(stream))
        return hc_error(cudaErrorInvalidResourceHandle);
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535 ||
        grid.x > 0x7fffffffu || threads < 1 || threads > HC_THREADS_MAX)
        return hc_error(cudaErrorInvalidConfiguration);
    if (shared_bytes > shared_optin())
        return hc_error(cudaErrorInvalidValue);
    struct hc_kernel_count *count = count_of(kernel->pretty);
    const long blocks = (long)grid.x * grid.y * grid.z;
    const long resident = (long)hc_settings.sms * hc_blocks_per_sm(threads, shared_bytes);
    if ((flags & 2) != 0 && blocks > resident)
        hostcuda_fail(
            __FILE__, __LINE__,
            "%s: LAUNCH_WAITING with %ld blocks of %d threads and %zu shared bytes; %ld fit "
            "on %d multiprocessors at once",
            count->name, blocks, threads, shared_bytes, resident, hc_settings.sms);
    auto launch = std::make_shared<hc_launch>();
    launch->body = kernel->body;
    launch->args = std::shared_ptr<void>(malloc(kernel->args_bytes), free);
    kernel->copy(launch->args.get(), args);
    launch->count = count;
    launch->grid = grid;
    launch->threads = threads;
    launch->flags = flags;
    launch->shared_bytes = shared_bytes;
    struct hc_op op;
    op.launch = launch;
    hc_enqueue(stream, op);
    return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void *, enum cudaFuncAttribute attr, int value)
{
    CALL;
    if (attr == cudaFuncAttributeMaxDynamicSharedMemorySize &&
        (value < 0 || (size_t)value > shared_optin()))
        return hc_error(cudaErrorInvalidValue);
    return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *)
{
    CALL;
    struct cudaFuncAttributes a = {};
    a.maxThreadsPerBlock = HC_THREADS_MAX;
    a.numRegs = 32;
    a.binaryVersion = a.ptxVersion = hc_settings.arch;
    a.maxDynamicSharedSizeBytes = (int)shared_optin();
    *attributes = a;
    return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *, int threads,
                                                          size_t shared_bytes)
{
    CALL;
    *blocks = shared_bytes > shared_optin() ? 0 : hc_blocks_per_sm(threads, shared_bytes);
    return cudaSuccess;
}
