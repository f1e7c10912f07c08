"""What each kernel states: how many blocks share a multiprocessor and with how much shared memory, and
what its inner loop may cost. Threads and blocks are the kernel's own (KERNEL(threads, blocks) in the
source, read back from the PTX); here stands what the compiler cannot know.

A row: name of the kernel; `shared(t)`: most dynamic shared bytes of a block, t = template arguments as
numbers; `loop(t)`: None, or a Loop. A kernel without a row fails the report.
"""
from collections import namedtuple

# Issue slots a warp may spend on one A tile of 16 x 16 weights (8 a lane), matrix instructions apart.
# alu, fma: the arithmetic of dequantization and scales; 25 % more for loads and bookkeeping.
Loop = namedtuple("Loop", "bits alu fma rows")
SLACK = 1.25

# kernels.md 3: int4 5 + 4 a 8 weights; int8 4 + 4 a 4 weights.
ALU = {4: 5, 8: 8}
FMA = {4: 4, 8: 8}


def weights_loop(bits, token_tiles, fine=False, fraction=False):
    """token_tiles: products of 8 tokens an A tile is used for. Group scales on the sums cost 4 FMA a
    product and group: 0.5 a tile and product at 128 inputs, 2 at 32. Zeros that are fractions come
    off in 4 more half subtractions."""
    scales = (2 if fine else 0.5) * token_tiles
    return Loop(bits, ALU[bits], FMA[bits] + scales + (4 if fraction else 0), 8 * token_tiles)


SYMMETRIC, WHOLE, FRACTION, TABLE = range(4)


def small_shared(t):
    bits, zero, tiles, fine, bulk = t
    units = 4 // tiles
    stage_units = 2 if bits == 4 and not fine and units >= 2 else 1
    code_bytes = 16 * 128 * bits // 8
    unit = code_bytes + (4 if fine else 1) * 32 * (2 if zero in (WHOLE, FRACTION) else 1)
    stages = (65536 if bulk else 32768) // (8 * stage_units * code_bytes)
    outs = 128 * tiles
    return (8 * stages * stage_units * unit + 2 * 8 * outs * 4 + 128 * 32 + 8 * tiles * (16 + 8) +
            8 * stages * 8 + 1024 + 16)


def small_loop(t):
    bits, zero, tiles, fine, _ = t
    # Tables go through shared memory: bounded by its reads, and no target of kernels.md is theirs.
    return None if zero == TABLE else weights_loop(bits, tiles, bool(fine), zero == FRACTION)


KERNELS = {
    "small_kernel": {"shared": small_shared, "loop": small_loop,
                     "shown": lambda t: t[1] == SYMMETRIC and not t[3]},
}
