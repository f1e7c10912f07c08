/* queue.h - bounded queues of pointers between threads.
 *
 * mpsc: many producers, one consumer that may wait (mutex + condition: it is used per request,
 * never per token). spsc: one producer, one consumer, no lock (a stream's outbox indices). */
#pragma once
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "host/base/err.h"

struct mpsc {
    pthread_mutex_t lock;
    pthread_cond_t not_empty;
    void **items; /* [capacity], owned */
    uint32_t head, n, capacity;
    bool closed;
};
MUST_USE bool mpsc_init(struct mpsc *queue, uint32_t capacity, struct err *err);
void mpsc_clear(struct mpsc *queue);
/* False when full or closed: the item stays the caller's. Never waits for room. */
MUST_USE bool mpsc_push(struct mpsc *queue, void *item);
/* The oldest item, or NULL when empty. */
void *mpsc_pop(struct mpsc *queue);
/* Waits; NULL when closed and empty, or when timeout_ms (>= 0; -1 = for ever) has passed. */
void *mpsc_wait(struct mpsc *queue, int timeout_ms);
/* Wakes every waiter; pushes fail from now on, pops drain. */
void mpsc_close(struct mpsc *queue);
uint32_t mpsc_count(struct mpsc *queue);

/* Index arithmetic of a ring with one writer and one reader; the items live with the owner.
 *   writer: if (spsc_room(&r)) { items[spsc_write_at(&r)] = x; spsc_written(&r); }
 *   reader: while (spsc_ready(&r)) { use(items[spsc_read_at(&r)]); spsc_read(&r); } */
struct spsc {
    _Atomic uint32_t head, tail; /* head: next to read; tail: next to write; both run freely */
    uint32_t capacity;           /* a power of two */
};
static inline void spsc_init(struct spsc *ring, uint32_t capacity)
{
    CHECK(capacity > 0 && (capacity & (capacity - 1)) == 0);
    atomic_init(&ring->head, 0);
    atomic_init(&ring->tail, 0);
    ring->capacity = capacity;
}
/* Writer: free places. */
static inline uint32_t spsc_room(struct spsc *ring)
{
    return ring->capacity - (atomic_load_explicit(&ring->tail, memory_order_relaxed) -
                             atomic_load_explicit(&ring->head, memory_order_acquire));
}
static inline uint32_t spsc_write_at(struct spsc *ring)
{
    return atomic_load_explicit(&ring->tail, memory_order_relaxed) & (ring->capacity - 1);
}
static inline void spsc_written(struct spsc *ring)
{
    atomic_fetch_add_explicit(&ring->tail, 1, memory_order_release);
}
/* Reader: items waiting. */
static inline uint32_t spsc_ready(struct spsc *ring)
{
    return atomic_load_explicit(&ring->tail, memory_order_acquire) -
           atomic_load_explicit(&ring->head, memory_order_relaxed);
}
static inline uint32_t spsc_read_at(struct spsc *ring)
{
    return atomic_load_explicit(&ring->head, memory_order_relaxed) & (ring->capacity - 1);
}
static inline void spsc_read(struct spsc *ring)
{
    atomic_fetch_add_explicit(&ring->head, 1, memory_order_release);
}
