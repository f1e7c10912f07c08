/* gemm_small_parts.cuh - K1: what a block works on: sizes, arguments, shared memory, its list of
 * tiles. Included by gemm_small.cuh alone. */
#pragma once
#include "cuda/device.cuh"
#include "cuda/kernels.h"

enum zero_kind { ZERO_SYMMETRIC, ZERO_WHOLE, ZERO_FRACTION, ZERO_TABLE, ZERO_KINDS };
enum {
    SMALL_THREADS = 256,
    SMALL_WARPS = 8,
    SMALL_STEPS = 128, /* most tiles of a block: the table of them takes 4 KB */
    /* Bytes of the ring's codes: two blocks of 64 KB cover 1.3 us of an H200's 17.8 B/clk/SM. Where
     * a block has 48 KB (sm_86, 89, 120) or memory is slower (sm_80), half. */
    SMALL_RING_BULK = 64 << 10,
    SMALL_RING_ASYNC = 32 << 10,
};
/* Copy engine and mbarriers: sm_90, 100, 103. sm_120 has them, but not the shared memory. */
#define SMALL_ARCH_HAS_BULK(arch) ((arch) >= 90 && (arch) < 120)

/* What follows from the template's numbers, for kernel and launcher. */
template <int BITS, int ZERO, int TILES, bool FINE, bool BULK> struct small_shape {
    enum {
        UNITS = 4 / TILES, /* of 128 inputs, a warp's: 64 registers of x whatever the tokens */
        STAGE_UNITS = BITS == 4 && !FINE && UNITS >= 2 ? 2 : 1,
        WHOLE = UNITS == STAGE_UNITS, /* a stage is all of a warp's inputs of a tile */
        CODE_BYTES = F64_UNIT_ROWS * F64_UNIT_COLS * BITS / 8,
        ZEROS = ZERO == ZERO_WHOLE || ZERO == ZERO_FRACTION,
        /* int4 with the scales and zeros of groups of 32 takes a quarter more of the ring. Less of
         * the rest, so that two blocks still have the 228 KB of sm_90. */
        TIGHT = BULK && BITS == 4 && FINE && ZEROS,
        STAGES = (BULK ? SMALL_RING_BULK : SMALL_RING_ASYNC) /
                 (SMALL_WARPS * STAGE_UNITS * CODE_BYTES * (TIGHT && TILES == 4 ? 2 : 1)),
        /* Room for a unit in the ring: of groups of 32 if FINE. What is copied may be less. */
        SLOT = CODE_BYTES + (FINE ? 128 : 32) * (ZEROS ? 2 : 1),
        LATE = FINE, /* fill a stage after its products: no registers for all of its codes */
        TOKENS = 8 * TILES,
        /* of 8 inputs, of 8 * TILES rows, through shared memory at once */
        PIECES = !BULK                ? 8
                 : TIGHT && TILES < 4 ? 16 / TILES
                                      : 32 / TILES,
        STAGING = TOKENS * PIECES * 16,
        OUTS = 128 * TILES, /* of a tile */
    };
    static_assert(TILES == 1 || TILES == 2 || TILES == 4, "tokens: 8, 16 or 32");
    static_assert(STAGES >= 2 && (STAGES & (STAGES - 1)) == 0, "stages are counted by masks");
};

struct small_args {
    struct f64_part parts[WEIGHT_PARTS_MAX];
    int32_t n_parts, n_in, rows;
    int32_t blocks; /* of 128 inputs */
    int32_t unit_bytes;
    int32_t odd_group; /* FINE: from scales of inputs 0.. to those of 32..: 32; groups of 64: 0 */
    uint16_t table[16];
    const uint16_t *x;
    int64_t x_stride;
    struct norm_in norm;
    float one_nth; /* 1 / n_in */
    struct gemm_out out;
    struct qkv_out qkv;
    bool is_qkv;
    int32_t item_tiles; /* 2: gate and up, the halves of a rotation; else 1 */
    int32_t n_items, splits;
    float *partial; /* [splits][n_items * item_tiles][OUTS] */
    uint32_t *tickets;
};

/* ---- shared memory ----------------------------------------------------------------------------
 */

struct step { /* one tile of 16 rows */
    const uint8_t *units;
    const float *row_factor, *bias; /* of its first row; bias may be NULL */
    int16_t n_rows;                 /* 16, less at a part's end */
    bool rotated;                   /* by halves, with the item's other tile */
    int32_t col;                    /* of y; q, k, v: head << 16 | feature */
};
struct token {
    float factor,
        shift; /* x -> x * factor + shift: normed but for gain and bias, times `inverse` */
    float inverse, scale; /* powers of two */
};
struct place { /* where a token's keys go; page < 0: nowhere; position < 0: padding */
    int32_t position, page;
};
struct share {                   /* of a block: inputs of one split, a run of items */
    int32_t split, k_from, k_to; /* blocks of 128 inputs */
    int32_t tile_from, n_tiles;
};
struct small_shared {
    unsigned char *ring; /* [warp][stage][STAGE_UNITS] units */
    float *sums;         /* [2][warp][OUTS]; before the first tile: scratch, x on its way */
    struct step *steps;
    struct token *tokens;
    struct place *places;
    uint64_t *bars;  /* [warp][stage] */
    uint32_t *pairs; /* of the table */
    uint32_t *last;  /* [2] */
    float *firsts;   /* [OUTS] of an item's first tile */
    struct share *share;
};
/* Byte offsets; the last is the size. */
template <int BITS, int ZERO, int TILES, bool FINE, bool BULK> struct small_layout {
    typedef small_shape<BITS, ZERO, TILES, FINE, BULK> S;
    enum {
        SUMS = SMALL_WARPS * S::STAGES * S::STAGE_UNITS * S::SLOT,
        SUMS_BYTES = SMALL_WARPS * (S::STAGING > 2 * S::OUTS * 4 ? S::STAGING : 2 * S::OUTS * 4),
        STEPS = SUMS + SUMS_BYTES,
        TOKENS = STEPS + SMALL_STEPS * (int)sizeof(struct step),
        PLACES = TOKENS + S::TOKENS * (int)sizeof(struct token),
        BARS = PLACES + S::TOKENS * (int)sizeof(struct place),
        PAIRS = BARS + SMALL_WARPS * S::STAGES * 8,
        LAST = PAIRS + 256 * 4,
        FIRSTS = LAST + 16,
        SHARE = FIRSTS + S::OUTS * 4,
        BYTES = SHARE + 32,
    };
    static_assert(2 * (BYTES + 1024) <= (BULK ? 228 : 164) * 1024, "two blocks an SM");
    static_assert(SUMS % 16 == 0 && TOKENS % 16 == 0 && BARS % 8 == 0, "aligned");
};
template <class L> DEVICE struct small_shared small_shared_of(unsigned char *base)
{
    struct small_shared s;
    s.ring = base;
    s.sums = (float *)(base + L::SUMS);
    s.steps = (struct step *)(base + L::STEPS);
    s.tokens = (struct token *)(base + L::TOKENS);
    s.places = (struct place *)(base + L::PLACES);
    s.bars = (uint64_t *)(base + L::BARS);
    s.pairs = (uint32_t *)(base + L::PAIRS);
    s.last = (uint32_t *)(base + L::LAST);
    s.firsts = (float *)(base + L::FIRSTS);
    s.share = (struct share *)(base + L::SHARE);
    return s;
}

/* ---- steps ------------------------------------------------------------------------------------
 */

/* Tile `tile` (16 rows) of the parts stacked, or of `part` alone. */
DEVICE struct step step_of(const struct small_args &a, int part, int tile)
{
    int col = 0;
    for (;; part++) {
        const int n = (a.parts[part].n_out + F64_UNIT_ROWS - 1) / F64_UNIT_ROWS;
        if (tile < n || part + 1 >= a.n_parts)
            break;
        tile -= n;
        col += a.parts[part].n_out;
    }
    const struct f64_part &p = a.parts[part];
    const int row = tile * F64_UNIT_ROWS, left = p.n_out - row;
    struct step s;
    s.units = p.units + ((size_t)(tile / 4) * (size_t)a.blocks * 4 + (size_t)(tile % 4)) *
                            (size_t)a.unit_bytes;
    s.row_factor = p.row_factor + row;
    s.bias = p.bias != NULL ? p.bias + row : NULL;
    s.n_rows = (int16_t)(left < F64_UNIT_ROWS ? left : F64_UNIT_ROWS);
    s.rotated = false;
    s.col = col + row;
    return s;
}
/* Item `item`'s tile 0 or 1. */
DEVICE struct step item_step(const struct small_args &a, int item, int which)
{
    if (a.item_tiles == 1)
        return step_of(a, 0, item);
    if (!a.is_qkv)
        return step_of(a, which, item);
    /* Pairs of a head: (i, i + rotary_dim / 2) where it is rotated by halves, else neighbours. */
    const struct qkv_out &qkv = a.qkv;
    const int pairs = qkv.head_dim / 32, head = item / pairs, pair = item % pairs;
    const bool rotated = qkv.inv_freq != NULL && !qkv.interleaved && pair < qkv.rotary_dim / 32 &&
                         head < qkv.n_heads + qkv.n_kv_heads;
    const int tile = rotated ? pair + which * (qkv.rotary_dim / 32) : 2 * pair + which;
    struct step s = step_of(a, 0, head * 2 * pairs + tile);
    s.rotated = rotated;
    s.col = head << 16 | tile * F64_UNIT_ROWS;
    return s;
}
