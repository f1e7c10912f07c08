/* runtime.h - what the stand-in's two files share: operations, streams, the state behind a call. */
#pragma once
#include "internal.h"
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

/* Something that a stream does later, or a graph every time. */
struct hc_launch {
    void (*body)(const void *args);
    std::shared_ptr<void> args;
    struct hc_kernel_count *count;
    dim3 grid;
    int threads, flags;
    size_t shared_bytes;
};
struct hc_op {
    std::shared_ptr<hc_launch> launch; /* or: */
    std::function<void()> run;
};
typedef std::vector<hc_op> hc_ops;
struct hc_capture {
    hc_ops ops; /* in the order of the calls, which respects every dependency */
    struct hostcuda_stream *origin;
    std::vector<struct hostcuda_stream *> streams;
    bool invalid;
};
struct hostcuda_stream {
    bool blocking;
    hc_ops queue;
    long n_queued, n_run; /* ever */
    std::shared_ptr<hc_capture> capture;
    bool unjoined; /* captured work that no event has led back yet */
};
struct hc_event_state {
    bool recorded, done;
    struct hostcuda_stream *stream;
    long position; /* of the stream: done when so many of its operations have run */
    double seconds;
    std::shared_ptr<hc_capture> capture;
};
struct hostcuda_event {
    std::shared_ptr<hc_event_state> state;
};
struct hostcuda_graph {
    std::shared_ptr<hc_ops> ops;
};
struct hostcuda_graph_exec {
    std::shared_ptr<hc_ops> ops;
};

/* Every call that can fail begins with one: it counts the call, injects the fault, and holds the
 * lock. */
struct hc_call {
    std::unique_lock<std::recursive_mutex> lock;
    cudaError_t status;
    hc_call();
};
cudaError_t hc_error(cudaError_t status); /* remembers it for cudaGetLastError */
/* A call that no capture allows: ends the capture in error if one goes on. */
bool hc_capture_forbids(void);
void hc_enqueue(cudaStream_t stream, const hc_op &op);
bool hc_stream_ok(cudaStream_t stream);
/* Runs what the streams hold; those that the null stream waits for; one stream. */
void hc_run_all(void);
void hc_run_blocking(void);
void hc_streams_forget(void);
void hc_run_stream(struct hostcuda_stream *stream, long until);
