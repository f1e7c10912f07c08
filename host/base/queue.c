/* queue.c - a bounded queue of pointers, many producers and one consumer.
 *
 * Invariant: under the lock, items[head .. head + n) modulo capacity are owned by the queue, the
 * oldest first. A push moves ownership in, a pop moves it out; nothing is freed here. */
#include "host/base/queue.h"
#include <errno.h>
#include <stdlib.h>
#include <time.h>

bool mpsc_init(struct mpsc *queue, uint32_t capacity, struct err *err)
{
    CHECK(capacity > 0);
    *queue = (struct mpsc){ .capacity = capacity };
    queue->items = calloc(capacity, sizeof *queue->items);
    if (!queue->items)
        return err_set(err, ERR_MEMORY, "no memory for a queue of %u places", capacity);
    pthread_condattr_t attr; /* timeouts by the monotonic clock: a clock jump must not stall */
    CHECK(pthread_condattr_init(&attr) == 0);
    CHECK(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0);
    CHECK(pthread_mutex_init(&queue->lock, NULL) == 0);
    CHECK(pthread_cond_init(&queue->not_empty, &attr) == 0);
    pthread_condattr_destroy(&attr);
    return true;
}

void mpsc_clear(struct mpsc *queue)
{
    if (!queue->items)
        return;
    pthread_mutex_destroy(&queue->lock);
    pthread_cond_destroy(&queue->not_empty);
    free(queue->items);
    queue->items = NULL;
}

bool mpsc_push(struct mpsc *queue, void *item)
{
    CHECK(item != NULL);
    pthread_mutex_lock(&queue->lock);
    bool room = !queue->closed && queue->n < queue->capacity;
    if (room) {
        uint64_t at = ((uint64_t)queue->head + queue->n) % queue->capacity;
        queue->items[at] = item;
        queue->n++;
        pthread_cond_signal(&queue->not_empty);
    }
    pthread_mutex_unlock(&queue->lock);
    return room;
}

static void *take_locked(struct mpsc *queue)
{
    if (queue->n == 0)
        return NULL;
    void *item = queue->items[queue->head];
    queue->head = (queue->head + 1) % queue->capacity;
    queue->n--;
    return item;
}

void *mpsc_pop(struct mpsc *queue)
{
    pthread_mutex_lock(&queue->lock);
    void *item = take_locked(queue);
    pthread_mutex_unlock(&queue->lock);
    return item;
}

void *mpsc_wait(struct mpsc *queue, int timeout_ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    if (timeout_ms >= 0) {
        until.tv_sec += timeout_ms / 1000;
        until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
        if (until.tv_nsec >= 1000000000) {
            until.tv_sec++;
            until.tv_nsec -= 1000000000;
        }
    }
    pthread_mutex_lock(&queue->lock);
    int rc = 0;
    while (queue->n == 0 && !queue->closed && rc != ETIMEDOUT)
        rc = timeout_ms < 0 ? pthread_cond_wait(&queue->not_empty, &queue->lock)
                            : pthread_cond_timedwait(&queue->not_empty, &queue->lock, &until);
    void *item = take_locked(queue);
    pthread_mutex_unlock(&queue->lock);
    return item;
}

void mpsc_close(struct mpsc *queue)
{
    pthread_mutex_lock(&queue->lock);
    queue->closed = true;
    pthread_cond_broadcast(&queue->not_empty);
    pthread_mutex_unlock(&queue->lock);
}

uint32_t mpsc_count(struct mpsc *queue)
{
    pthread_mutex_lock(&queue->lock);
    uint32_t n = queue->n;
    pthread_mutex_unlock(&queue->lock);
    return n;
}
