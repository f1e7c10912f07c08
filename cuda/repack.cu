/* repack.cu - canonical rows to layout F64 at load, and F64 to fp16 rows (for gemm_dense).
 *
 *   f64_repack:      codes u8 [n_rows][n_in], scales, zeros f32 [n_rows][n_groups]
 *                    -> units and row_factor of a part; the same bytes as layout_pack
 *   f64_dequantize:  units -> fp16 [n][n_in padded to 128], (code - zero) * scale
 *
 * Repack reads 1 byte and writes 0.52 (int4) or 1.02 (int8) of a weight; dequantize reads those and
 * writes 2. Both are bound by memory, so a warp takes a unit, turns it in shared memory, and
 * touches global memory in whole rows of 128 (codes), 256 (fp16) or 512 (atoms) bytes.
 *
 *   grid (blocks of 128 inputs, strips of 64 rows), 4 warps:
 *
 *            block 0      block 1
 *          +-----------+-----------+
 *   strip 0| warp 0 u0 |    ..     |
 *          | warp 1 u1 |           |
 *          | warp 2 u2 |           |
 *          | warp 3 u3 |           |
 *          +-----------+-----------+
 *
 * The row factors come first, from a kernel of a warp a row: units need them. */
#include <string.h>
#include "cuda/dequant.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"

enum {
    REPACK_WARPS = F64_STRIP_ROWS / F64_UNIT_ROWS,
    REPACK_THREADS = 32 * REPACK_WARPS,
    /* Bytes of a staged row of codes. 136: the eight rows that a warp reads 2 bytes of lie 34 words
     * apart, 8 different pairs of banks. */
    CODES_PITCH = F64_UNIT_COLS + 8,
    /* Of a staged row of fp16. 272 is 68 words: rows of a fragment lie 4 banks apart. */
    HALVES_PITCH = 2 * F64_UNIT_COLS + 16,
    TILE_COLS = 16, /* inputs of an MMA k step */
    TILES = F64_UNIT_COLS / TILE_COLS,
    /* As matrix_scale_parts: the largest scale of a row lands in [128, 256), and no factor is under
     * 2^-125. */
    SCALE_TOP_EXPONENT = 7,
    FACTOR_EXPONENT_MIN = -125,
};
static_assert(REPACK_WARPS == 4, "a warp takes a unit of the strip");
static_assert(CODES_PITCH % 4 == 0 && HALVES_PITCH % 16 == 0,
              "rows are read in words, in 16 bytes");

/* ---- row factors -------------------------------------------------------------------------------
 */

struct factors_args {
    const float *scales; /* [n_rows][n_groups] */
    float *factors;      /* [n_rows padded to 64] */
    int32_t n_rows, n_groups;
};

/* The power of two of a row whose largest |scale| has these bits. */
DEVICE float factor_of(uint32_t most)
{
    if (most == 0 || most >= 0x7f800000u)
        return 1.0f;
    /* scale = f * 2^exponent, f in [0.5, 1) */
    int exponent = (int)(most >> 23) - 126;
    if (most < 0x00800000u)
        for (exponent = -149; most != 0; most >>= 1)
            exponent++;
    exponent -= SCALE_TOP_EXPONENT + 1;
    if (exponent < FACTOR_EXPONENT_MIN)
        exponent = FACTOR_EXPONENT_MIN;
    return f32_of_bits((uint32_t)(exponent + 127) << 23);
}

KERNEL(REPACK_THREADS, 8) repack_factors(const __grid_constant__ struct factors_args a)
{
    const int row = (int)blockIdx.x * REPACK_WARPS + warp_id();
    uint32_t most = 0;
    if (row < a.n_rows)
        for (int g = lane_id(); g < a.n_groups; g += 32) {
            const uint32_t bits = f32_bits(a.scales[(int64_t)row * a.n_groups + g]) & 0x7fffffffu;
            most = most > bits ? most : bits;
        }
    for (int mask = 16; mask > 0; mask >>= 1) {
        const uint32_t other = shfl_xor(most, mask);
        most = most > other ? most : other;
    }
    if (lane_id() == 0)
        a.factors[row] = factor_of(most);
}

/* ---- units -------------------------------------------------------------------------------------
 */

struct repack_args {
    const uint8_t *codes;
    const float *scales, *zeros; /* zeros NULL: symmetric */
    const float *factors;        /* of the whole part */
    uint8_t *units;
    int32_t n_in, row_from, n_rows; /* rows past n_rows are padding */
    int32_t group, n_groups;        /* of the source */
    int32_t unit_group, unit_bytes; /* of the units */
    int32_t shift;                  /* added to codes */
    int32_t container_zero;         /* the code of padding: 8 or 128, 0 with zeros */
    bool aligned;                   /* rows of codes start at multiples of 4 */
};

/* The code of an input past n_in in a group with this zero (layout_f64.c, code_of_zero). */
DEVICE int code_of_zero(float zero, int bits)
{
    const float top = (float)((1 << bits) - 1), whole = rintf(zero);
    return (int)(whole < 0.0f ? 0.0f : whole > top ? top : whole);
}

/* Four codes of a source row from input col on, as they are packed. */
template <int BITS> DEVICE uint32_t four_codes(const struct repack_args &a, int row, int col)
{
    const uint8_t *codes = a.codes + (int64_t)row * a.n_in;
    uint32_t four = 0;
    if (a.aligned && col + 4 <= a.n_in) {
        four = *(const uint32_t *)(const void *)(codes + col);
        return four + (uint32_t)a.shift * 0x01010101u; /* no carry: codes stay below 2^BITS */
    }
    int fill = a.container_zero;
    const int group_start = col / a.unit_group * a.unit_group;
    if (a.zeros != NULL && group_start < a.n_in)
        fill = code_of_zero(a.zeros[(int64_t)row * a.n_groups + group_start / a.group], BITS);
    for (int i = 0; i < 4; i++) {
        const int code = col + i < a.n_in ? codes[col + i] + a.shift : fill;
        four |= (uint32_t)code << 8 * i;
    }
    return four;
}

/* The word of a lane for one row and k16 tile: k = 2q, 2q+8, 2q+1, 2q+9 of the staged row. */
DEVICE uint32_t tile_word(const unsigned char *row, int tile, int q)
{
    const unsigned char *at = row + tile * TILE_COLS + 2 * q;
    const uint32_t low = *(const uint16_t *)(const void *)at;
    const uint32_t high = *(const uint16_t *)(const void *)(at + 8);
    return byte_permute(low, high, 0x5140u);
}

template <int BITS> DEVICE void deal_codes(const unsigned char *staged, uint8_t *unit)
{
    const int lane = lane_id();
    const unsigned char *row = staged + lane / 4 * CODES_PITCH;
    const unsigned char *row8 = row + 8 * CODES_PITCH;
    for (int atom = 0; atom < (BITS == 4 ? 2 : 4); atom++) {
        uint32_t w[4];
        for (int t = 0; t < 4; t++) {
            if (BITS == 4)
                w[t] = tile_word(row, 4 * atom + t, lane % 4) |
                       tile_word(row8, 4 * atom + t, lane % 4) << 4;
            else
                w[t] = tile_word(t % 2 == 0 ? row : row8, 2 * atom + t / 2, lane % 4);
        }
        st128(unit + atom * F64_ATOM_BYTES + lane * 16, make_uint4(w[0], w[1], w[2], w[3]));
    }
}

/* Lanes 0..15 write the scales of their row, 16..31 its zeros. */
DEVICE void deal_scales(const struct repack_args &a, int row, int col, float factor, uint16_t *to)
{
    const int r = lane_id() % 16, area = lane_id() / 16;
    const int n = F64_UNIT_COLS / a.unit_group;
    if (area == 1 && a.zeros == NULL)
        return;
    const float *from = area == 0 ? a.scales : a.zeros;
    for (int g = 0; g < n; g++) {
        const int group_col = col + g * a.unit_group;
        float v = 0.0f;
        if (row < a.n_rows && group_col < a.n_in)
            v = from[(int64_t)row * a.n_groups + group_col / a.group] / (area == 0 ? factor : 1.0f);
        to[(area * n + g) * F64_UNIT_ROWS + 2 * (r % 8) + r / 8] = f16_of(v);
    }
}

template <int BITS>
KERNEL(REPACK_THREADS, 8)
repack_units(const __grid_constant__ struct repack_args a)
{
    SHARED(memory);
    unsigned char *staged = memory + warp_id() * F64_UNIT_ROWS * CODES_PITCH;
    const int row =
        (int)blockIdx.y * F64_STRIP_ROWS + warp_id() * F64_UNIT_ROWS; /* of the source */
    const int col = (int)blockIdx.x * F64_UNIT_COLS;
    const int64_t block =
        ((int64_t)(a.row_from / F64_STRIP_ROWS) + (int64_t)blockIdx.y) * (int64_t)gridDim.x +
        (int64_t)blockIdx.x;
    uint8_t *unit = a.units + (block * REPACK_WARPS + warp_id()) * a.unit_bytes;

    /* stage: rows of 128 codes */
    for (int r = 0; r < F64_UNIT_ROWS; r++) {
        uint32_t four = (uint32_t)a.container_zero * 0x01010101u;
        if (row + r < a.n_rows)
            four = four_codes<BITS>(a, row + r, col + 4 * lane_id());
        *(uint32_t *)(void *)(staged + r * CODES_PITCH + 4 * lane_id()) = four;
    }
    warp_sync();

    /* deal: to lanes as fragments want them */
    deal_codes<BITS>(staged, unit);
    const int r = row + lane_id() % 16;
    deal_scales(a, r, col, a.factors[a.row_from + r],
                (uint16_t *)(void *)(unit + F64_UNIT_ROWS * F64_UNIT_COLS * BITS / 8));
}

cudaError_t f64_repack(const struct launch *launch, const struct repack_op *op)
{
    const int32_t n_groups = (op->n_in + op->group - 1) / op->group;
    const int32_t padded = f64_pad(op->n_rows, F64_STRIP_ROWS);
    struct factors_args f;
    f.scales = op->scales;
    f.factors = op->row_factor + op->row_from;
    f.n_rows = op->n_rows;
    f.n_groups = n_groups;
    const cudaError_t status = LAUNCH((repack_factors), dim3((unsigned)(padded / REPACK_WARPS)),
                                      REPACK_THREADS, 0, launch->stream, LAUNCH_PLAIN, f);
    if (status != cudaSuccess)
        return status;
    struct repack_args a;
    memset(&a, 0, sizeof a);
    a.codes = op->codes;
    a.scales = op->scales;
    a.zeros = op->kind.zeros ? op->zeros : NULL;
    a.factors = op->row_factor;
    a.units = op->units;
    a.n_in = op->n_in;
    a.row_from = op->row_from;
    a.n_rows = op->n_rows;
    a.group = op->group;
    a.n_groups = n_groups;
    a.unit_group = op->kind.group;
    a.unit_bytes = f64_unit_bytes(op->kind);
    const int32_t bits = op->bits > 0 ? op->bits : op->kind.bits;
    if (!op->kind.zeros) {
        a.container_zero = 1 << (op->kind.bits - 1);
        a.shift = a.container_zero - (1 << (bits - 1));
    }
    a.aligned = op->n_in % 4 == 0 && (uintptr_t)op->codes % 4 == 0;
    const dim3 grid((unsigned)f64_blocks(op->n_in), (unsigned)(padded / F64_STRIP_ROWS));
    const size_t shared = (size_t)REPACK_WARPS * F64_UNIT_ROWS * CODES_PITCH;
    if (op->kind.bits == 4)
        return LAUNCH((repack_units<4>), grid, REPACK_THREADS, shared, launch->stream, LAUNCH_PLAIN,
                      a);
    return LAUNCH((repack_units<8>), grid, REPACK_THREADS, shared, launch->stream, LAUNCH_PLAIN, a);
}

/* ---- to fp16 -----------------------------------------------------------------------------------
 */

struct dequantize_args {
    const uint8_t *units; /* of the first unit row of the slice's strip */
    uint16_t *out;
    int32_t n_blocks, tile_from, n_tiles; /* tiles of 16 rows, counted in the part */
    int32_t unit_group, unit_bytes;
    bool zeros, fractions, table;
    uint16_t values[16]; /* of the table */
};

/* One k16 tile of a unit: fragment registers times the scales of rows g and g + 8. */
template <int BITS>
DEVICE void dequantize_tile(uint32_t (&f)[4], const uint32_t (&w)[4], int tile, uint32_t scales,
                            uint32_t zeros, const struct dequantize_args &a, const uint32_t *pairs)
{
    if (BITS == 8) {
        const struct zeros8 z = a.fractions ? zeros8_none()
                                : a.zeros   ? zeros8_of(zeros)
                                            : zeros8_symmetric();
        dequant8(f, w[2 * (tile % 2)], w[2 * (tile % 2) + 1], z);
    } else if (a.table) {
        dequant_table(f, w[tile % 4], pairs);
    } else {
        const struct zeros4 z = a.fractions ? zeros4_none()
                                : a.zeros   ? zeros4_of(zeros)
                                            : zeros4_symmetric();
        dequant4(f, w[tile % 4], z);
    }
    if (a.fractions)
        subtract_zeros(f, zeros);
    const uint32_t low = byte_permute(scales, 0, 0x1010u), high = byte_permute(scales, 0, 0x3232u);
    f[0] = h2_mul(f[0], low);
    f[1] = h2_mul(f[1], high);
    f[2] = h2_mul(f[2], low);
    f[3] = h2_mul(f[3], high);
}

template <int BITS>
KERNEL(REPACK_THREADS, 6)
dequantize_units(const __grid_constant__ struct dequantize_args a)
{
    SHARED(memory);
    const int lane = lane_id(), g = lane / 4, q = lane % 4;
    unsigned char *staged = memory + warp_id() * F64_UNIT_ROWS * HALVES_PITCH;
    uint32_t *pairs = (uint32_t *)(void *)(memory + REPACK_WARPS * F64_UNIT_ROWS * HALVES_PITCH);
    const int tile_row = (int)blockIdx.y * REPACK_WARPS + warp_id(); /* of the slice */
    if (a.table)
        table_pairs(pairs, a.values, (int)threadIdx.x, REPACK_THREADS);
    block_sync();
    /* The slice of the previous product may still be read. */
    griddep_wait();
    griddep_launch();
    if (tile_row >= a.n_tiles)
        return;
    const int tile_of_part = a.tile_from + tile_row;
    const int64_t at = ((int64_t)(tile_of_part / 4) * a.n_blocks + (int64_t)blockIdx.x) * 4 +
                       (int64_t)(tile_of_part % 4);
    const uint8_t *unit = a.units + at * a.unit_bytes;
    const uint8_t *scales = unit + F64_UNIT_ROWS * F64_UNIT_COLS * BITS / 8;
    const int n_groups = F64_UNIT_COLS / a.unit_group;

    /* codes to fp16, fragment by fragment, into rows */
    const int tiles_an_atom = BITS == 4 ? 4 : 2;
    for (int atom = 0; atom < TILES / tiles_an_atom; atom++) {
        const uint4 v = ldg_stream(unit + atom * F64_ATOM_BYTES + lane * 16);
        const uint32_t w[4] = { v.x, v.y, v.z, v.w };
#pragma unroll
        for (int t = 0; t < tiles_an_atom; t++) {
            const int tile = atom * tiles_an_atom + t, group = tile * TILE_COLS / a.unit_group;
            const uint32_t *row_pair =
                (const uint32_t *)(const void *)(scales + group * 32 + 4 * g);
            uint32_t f[4];
            dequantize_tile<BITS>(f, w, t, row_pair[0], a.zeros ? row_pair[n_groups * 8] : 0, a,
                                  pairs);
            unsigned char *to = staged + g * HALVES_PITCH + tile * TILE_COLS * 2 + 4 * q;
            *(uint32_t *)(void *)to = f[0];
            *(uint32_t *)(void *)(to + 8 * HALVES_PITCH) = f[1];
            *(uint32_t *)(void *)(to + 16) = f[2];
            *(uint32_t *)(void *)(to + 8 * HALVES_PITCH + 16) = f[3];
        }
    }
    warp_sync();

    /* rows of 256 bytes out: half a warp each */
    const int64_t pitch = (int64_t)a.n_blocks * F64_UNIT_COLS;
    for (int r = lane / 16; r < F64_UNIT_ROWS; r += 2) {
        const uint4 v = ld128(staged + r * HALVES_PITCH + lane % 16 * 16);
        st128(a.out + ((int64_t)tile_row * F64_UNIT_ROWS + r) * pitch +
                  (int64_t)blockIdx.x * F64_UNIT_COLS + lane % 16 * 8,
              v);
    }
}

cudaError_t f64_dequantize(const struct launch *launch, const struct f64_matrix *w, int32_t part,
                           int32_t row_from, int32_t row_to, uint16_t *out)
{
    struct dequantize_args a;
    memset(&a, 0, sizeof a);
    a.units = w->parts[part].units;
    a.out = out;
    a.n_blocks = f64_blocks(w->n_in);
    a.tile_from = row_from / F64_UNIT_ROWS;
    a.n_tiles = (row_to - row_from) / F64_UNIT_ROWS;
    a.unit_group = w->kind.group;
    a.unit_bytes = f64_unit_bytes(w->kind);
    a.zeros = w->kind.zeros;
    a.fractions = w->kind.zeros && w->kind.fractions;
    a.table = w->kind.table != NULL;
    if (a.table)
        memcpy(a.values, w->kind.table, sizeof a.values);
    const dim3 grid((unsigned)a.n_blocks,
                    (unsigned)((a.n_tiles + REPACK_WARPS - 1) / REPACK_WARPS));
    const size_t shared = (size_t)REPACK_WARPS * F64_UNIT_ROWS * HALVES_PITCH +
                          (a.table ? 256 * sizeof(uint32_t) : 0);
    const int flags = launch->pdl ? LAUNCH_PDL : LAUNCH_PLAIN;
    if (w->kind.bits == 4)
        return LAUNCH((dequantize_units<4>), grid, REPACK_THREADS, shared, launch->stream, flags,
                      a);
    return LAUNCH((dequantize_units<8>), grid, REPACK_THREADS, shared, launch->stream, flags, a);
}
