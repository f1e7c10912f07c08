/* limits.h - what this machine can do at most, measured: the two roofs that benches divide by. */
#pragma once
#include "host/base/pool.h"

/* Bytes a second that all threads of the pool read together from a block far larger than any cache
 * (1 GiB, best of several passes; takes about a second). 0 when the memory cannot be had. */
double limits_stream_bytes_per_s(struct pool *pool);
/* int8 multiply-accumulates a second, counted as two operations each, of the best non-tile
 * instruction (vpdpbusd on 512 bits, or pmaddubsw + pmaddwd on AVX2), all threads together,
 * operands in registers. 0 where there is neither. */
double limits_int8_ops_per_s(struct pool *pool);
