/* limits_kernels.h - between limits.c and the probes of each instruction set. */
#pragma once
#include <stddef.h>
#include <stdint.h>

enum {
    LIMITS_DOT_MACS_AVX512 = 64, /* multiply-accumulates of one step of one sum */
    LIMITS_DOT_MACS_AVX2 = 32,
    LIMITS_DOT_SUMS = 12, /* independent sums: 2 a cycle x 5 cycles of latency, and some */
};
/* Fetched ahead while reading; two streams a thread: the fastest that we know how to read (one
 * stream without was 5 % slower, Granite Rapids). */
enum { LIMITS_AHEAD_BYTES = 4096 };
/* Read `bytes` (a multiple of 512) from 64-byte aligned memory; the result keeps the loads alive.
 */
uint64_t limits_read_avx512(const void *from, size_t bytes);
uint64_t limits_read_avx2(const void *from, size_t bytes);
/* LIMITS_DOT_SUMS sums, n steps each. */
uint64_t limits_dot_avx512(int64_t n);
uint64_t limits_dot_avx2(int64_t n);
