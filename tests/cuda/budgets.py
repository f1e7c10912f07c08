"""What each kernel states: how many blocks share a multiprocessor and with how much shared memory, and
what its inner loop may cost. Threads and blocks are the kernel's own (KERNEL(threads, blocks) in the
source, read back from the PTX); here stands what the compiler cannot know.

A row: name of the kernel; `shared(t, most)`: dynamic shared bytes of a block, t = template arguments as
numbers, most = what a block may have on that chip; `loop(t)`: None, or a Loop; `shown(t)`: whether the
roofline table shows it. Shared memory is judged where kernels.md has targets or a data sheet's worth of
it (sm_80, 90); on smaller chips (sm_86, 89, 120) one block must fit. No row: the report fails.
"""
from collections import namedtuple

# Issue slots a warp may spend on one A tile of 16 x 16 weights (8 a lane), matrix instructions apart.
# alu, fma: the arithmetic of dequantization and scales; a quarter of it more (slack), on whatever pipe, for
# loads and bookkeeping. other: what comes with the tokens, counted exactly.
Loop = namedtuple("Loop", "bits alu fma rows slack other")
SLACK = 1.25

# kernels.md 3: int4 5 + 4 a 8 weights; int8 4 + 4 a 4 weights.
ALU = {4: 5, 8: 8}
FMA = {4: 4, 8: 8}


# A group's own setup, for each A tile of the group (8 of 16 inputs in 128, 2 in 32): its scales (a read,
# two conversions, an address) and zero points (a read, both rows' magic numbers).
SCALE_SETUP, ZERO_SETUP = 4, 8


def weights_loop(bits, token_tiles, tiles_of_group=8, zeros=False, fraction=False, scaled_weights=False):
    """token_tiles: products of 8 tokens that an A tile is used for. Group scales cost 4 FMA a product
    and group on the sums, which start at zero (2 ALU), or 4 FMA a tile on the weights. Fractions come
    off in 4 more half subtractions."""
    products = token_tiles / tiles_of_group
    setup = (SCALE_SETUP + (ZERO_SETUP if zeros else 0)) / tiles_of_group
    alu = ALU[bits] + setup / 2 + (0 if scaled_weights else 2 * products)
    fma = FMA[bits] + setup / 2 + (4 if scaled_weights else 4 * products) + (4 if fraction else 0)
    return Loop(bits, alu, fma, 8 * token_tiles, SLACK, 0)


SYMMETRIC, WHOLE, FRACTION, TABLE = range(4)


def small_shared(t, _):
    """gemm_small_parts.cuh, small_shape and small_layout: the ring; sums of a tile twice, or rows on their
    way to registers; tables of steps, rows, barriers and pairs; an item's first sums."""
    bits, zero, tiles, fine, bulk = t
    zeros = zero in (WHOLE, FRACTION)
    stage_units = 2 if bits == 4 and not fine and 4 // tiles >= 2 else 1
    code_bytes = 16 * 128 * bits // 8
    slot = code_bytes + (128 if fine else 32) * (2 if zeros else 1)
    tight = bulk and bits == 4 and fine and zeros
    stages = (65536 if bulk else 32768) // (8 * stage_units * code_bytes) // (2 if tight and tiles == 4 else 1)
    pieces = 8 if not bulk else 16 // tiles if tight and tiles < 4 else 32 // tiles
    sums = 8 * max(8 * tiles * pieces * 16, 2 * 128 * tiles * 4)
    tables = 128 * 32 + 8 * tiles * (16 + 8) + 8 * stages * 8 + 256 * 4 + 16 + 128 * tiles * 4 + 32
    return 8 * stages * stage_units * slot + sums + tables


def small_loop(t):
    bits, zero, tiles, fine, _ = t
    # Tables go through shared memory: bounded by its reads, and no target of kernels.md is theirs.
    if zero == TABLE:
        return None
    return weights_loop(bits, tiles, 2 if fine else 8, zero != SYMMETRIC, zero == FRACTION)


def tile_shared(unit, tokens, steps, extra, fixed, blocks):
    """gemm_tile.cuh, tile_stages: up to four stages, in half a multiprocessor where two fit there and two
    blocks are wanted; x in slabs of 32 bytes a token and 32 more."""
    def shared(most):
        stage = 8 * unit + steps * (32 * tokens + 32) + tokens * extra
        half = (most - 1024) // 2 - fixed
        two = blocks == 2 and not (tokens == 64 and most < 128 << 10) and half >= 2 * stage
        stages = min(4, (half if two else most - fixed) // stage)
        return fixed + max(stages * stage, tokens * (128 + 4) * 4)
    return shared


def unit_of(bits, groups, zeros):
    return 2048 * bits // 8 + groups * 32 * (2 if zeros else 1)


def mma_shared(t, most):
    bits, codes, whole, m, n = t
    unit = unit_of(bits, 1 if whole else 4, codes in (WHOLE, FRACTION))
    return tile_shared(unit, 8 * m * n, 8, 0, 1024 if codes == TABLE else 0, 2)(most)


def mma_loop(t):
    bits, codes, whole, m, n = t
    if codes == TABLE:
        return None
    loop = weights_loop(bits, n, 8 if whole else 2, codes != SYMMETRIC, codes == FRACTION)
    # The first product of a whole group adds to nothing: no sums that start at zero.
    alu = loop.alu - (2 * n / 8 if whole else 0)
    # B fragments: an ldmatrix brings two k16 x 8 tokens, for M tiles of weights.
    return loop._replace(alu=alu, other=n / 2 / m)


def s8_shared(t, most):
    bits, codes, whole, m, n = t
    unit = unit_of(bits, 1 if whole else 4, codes != SYMMETRIC)
    return tile_shared(unit, 8 * m * n, 4, 32 if codes != SYMMETRIC else 4, 0, 2 if whole or m == 1 else 1)(most)


def s8_loop(t):
    """Integer products, whole groups (smaller ones fold behind branches, between the products): codes made
    signed, 5 ALU int4, 2 int8; folds, 12 FMA-pipe a product and group. Zeros: 4 FMA a product more, and
    the sum of a token, about 24 slots for M tiles of weights."""
    bits, zeros, whole, m, n = t
    if not whole:
        return None
    alu = (5 if bits == 4 else 2) + (SCALE_SETUP + (ZERO_SETUP if zeros else 0)) / 2 / 8
    fma = (12 + (4 if zeros else 0)) * n / 8 + (SCALE_SETUP + (ZERO_SETUP if zeros else 0)) / 2 / 8
    fma += 24 / 8 / m if zeros else 0
    # An ldmatrix brings 32 inputs of 16 tokens; scales of 2 N tokens are read, their zeros' sums handed round.
    return Loop(bits, alu, fma, 8 * n, SLACK, (n / 4 + 2 * n / 8 * (2 if zeros else 1)) / m)


WG_SYMMETRIC, WG_ZEROS, WG_TABLE = range(3)


def wgmma_loop(t):
    bits, codes, fine, tokens = t
    if codes == WG_TABLE:
        return None
    zeros = codes == WG_ZEROS
    loop = weights_loop(bits, tokens / 8, 2 if fine else 8, zeros, zeros, scaled_weights=bool(fine) or tokens > 64)
    if fine:
        # Where a group's scales are depends on its size, known at run time: six slots a group of two tiles.
        loop = loop._replace(alu=loop.alu + 3)
    # Descriptors are made in uniform registers, a product and a stage at a time, and products are
    # fenced and waited for: six issue slots a tile, of 16 and more that its tensor time leaves.
    return loop._replace(other=6)


I8 = 11  # enum dtype


def attend_stride(d):
    """Bytes of a row of d 16-bit units: an odd number of chunks, or whole 128 bytes."""
    return 2 * d if d % 64 == 0 or d // 8 % 2 == 1 else 2 * d + 16


def decode_shared(t, _):
    kv, d = t[:2]
    if kv == I8:  # codes of 16 tokens, scales of K and V
        return 4 * (8 if d <= 80 else 6 if d <= 96 else 5) * (16 * attend_stride(d // 2) + 128)
    return 4 * (6 if d <= 64 else 4 if d <= 80 else 3) * 16 * attend_stride(d)


def prefill_shared(t, _):
    kv, d = t
    scales = 4 * 128 if kv == I8 else 0
    return (64 * (2 if d <= 128 else 1) + 2 * 64) * attend_stride(d) + scales + 64


def attend_wgmma_shared(t, _):
    # Q of 128 rows; K and V, two blocks each of 128 keys (64 where D is 256); barriers and the tile.
    return 128 * 2 * t[0] + 4 * (128 if t[0] <= 128 else 64) * 2 * t[0] + 128


def rows_tile_shared(t, _):
    """gemm_rows.cu: stages of 32 inputs of x (fp16) and of the weights (t[0] == 2: fp32); outputs of a tile
    t[2], 128 with 128 rows or 32 with 64."""
    rows, outs = (128, 128) if t[2] == 128 else (64, 32)
    return 3 * (80 * rows + 160 * outs) if t[0] == 2 else 4 * 80 * (rows + outs)


def fixed(n):
    return lambda t, most: n


KERNELS = {
    "small_kernel": {"shared": small_shared, "loop": small_loop,
                     "shown": lambda t: t[1] == SYMMETRIC and not t[3]},
    "gemm_mma_tile": {"shared": mma_shared, "loop": mma_loop,
                      "shown": lambda t: t[1] == SYMMETRIC and t[2] and t[3] * t[4] == 8},
    "gemm_tiles": {"shared": lambda t, most: most, "loop": wgmma_loop,
                   "shown": lambda t: t[1] == WG_SYMMETRIC and not t[2]},
    "gemm_s8_tile": {"shared": s8_shared, "loop": s8_loop, "shown": lambda t: False},
    "attend_decode_kernel": {"shared": decode_shared},
    "attend_prefill_kernel": {"shared": prefill_shared},
    "attend_wgmma_kernel": {"shared": attend_wgmma_shared},
    "dense_epilogue": {"shared": fixed(0)},
    "rows_small": {"shared": lambda t, most: 8 * t[1] * 32 * 4 * 4},
    "rows_tile": {"shared": rows_tile_shared},
    "rows_kernel": {"shared": fixed(0)},
    "columns_kernel": {"shared": fixed(0)},
    "embed_f64": {"shared": fixed(0)},
    "kv_store_kernel": {"shared": fixed(16 << 10)},   # 8 heads of 256 floats, angles of one
    "prepare_kernel": {"shared": fixed(33 << 10)},    # a row of 16384 as fp16
    "post_kernel": {"shared": fixed(66 << 10)},       # a row of 16384 floats
    "gate_kernel": {"shared": fixed(0)},
    "gather_kernel": {"shared": fixed(0)},
    "route_kernel": {"shared": fixed(0)},
    "plan_kernel": {"shared": fixed(4 * (17 * 1024 + 4 * 1025))},  # 1024 experts, 16 warps
    "experts_gate_kernel": {"shared": fixed(0)},
    "experts_add_kernel": {"shared": fixed(0)},
    "repack_factors": {"shared": fixed(0)},
    "repack_units": {"shared": fixed(4 * 16 * 136)},
    "dequantize_units": {"shared": fixed(4 * 16 * 272 + 1024)},
    "sample_kernel": {"shared": fixed(34 << 10)},     # struct memory: lists of 1024, 2048 bins
}


def started(name, arguments, arch):
    """Whether this instance is ever launched on this architecture: gemm_small has one form with bulk copies, for
    sm_90 alone, and one with cp.async for the others; both are compiled everywhere."""
    if name == "small_kernel":
        return bool(arguments[-1]) == (arch == "90a")
    return True
