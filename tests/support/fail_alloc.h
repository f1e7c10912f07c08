/* fail_alloc.h - make the n-th allocation fail. For tests named test_*_oom.c, which are linked with
 * --wrap for malloc, calloc, realloc, reallocarray, aligned_alloc, strdup and strndup (only our
 * objects see the wrappers). */
#pragma once
#include <stddef.h>
#include <stdint.h>

/* The n-th allocation from now (1 = the next) fails, and all after it too until fail_alloc_off. */
void fail_alloc_at(int64_t n);
void fail_alloc_off(void);
/* Allocations that were asked for since fail_alloc_at. */
int64_t fail_alloc_seen(void);
void *fail_alloc_malloc(size_t size); /* for libraries that take hooks */
