"""What the machine code of a matrix kernel allows on one H200: an estimate before any measurement.

Figures of the machine: kernels.md section 1 (measured: copy rate, dense rate; stated: pipes). A tile
below is 16 x 16 weights for all the tokens of the block; all of a matrix's tiles are spread over all
multiprocessors. Latency, barriers and the tail of the last wave are not in it.
"""
import sass

SMS, CLOCK = 132, 1.83e9
BYTES_A_CLOCK = 4.3e12 / SMS / CLOCK          # 17.8 an SM
ALU_A_CLOCK, FMA_A_CLOCK, LSU_A_CLOCK, ISSUE_A_CLOCK = 2, 4, 1, 4
WGMMA_FLOPS = 790e12 / SMS / CLOCK            # a clock and SM, as measured
MMA_FLOPS = 500e12 / SMS / CLOCK              # mma.sync: about 63 % of it
SHAPES = (("o", 4096, 4096), ("down", 4096, 14336), ("gate_up", 28672, 4096))


def unit_bytes(bits):
    return 2048 * bits // 8 + 32


def tile_clocks(kernel, rows):
    """{limit: clocks an SM needs for one tile} besides memory."""
    loop = kernel.loop
    tensor = 2 * 256 * rows / (WGMMA_FLOPS if "gmma" in kernel.matrix else MMA_FLOPS)
    if kernel.matrix in ("imma", "igmma"):
        tensor /= 2
    warps = kernel.blocks * kernel.threads / 32
    return {
        "alu": loop[sass.ALU] / ALU_A_CLOCK,
        "fma": loop[sass.FMA] / FMA_A_CLOCK,
        "lsu": loop[sass.LSU] / LSU_A_CLOCK,
        "issue": (loop["others"] + loop[sass.TENSOR]) / ISSUE_A_CLOCK,
        "tensor": tensor,
        "stalls": loop["stalls"] / warps,     # each warp has its own tile in hand
    }


def matrix_kind(kernel):
    loop = sass.main_loop(kernel.code)
    return next((i.word.lower() for i in loop.body if i.pipe() == sass.TENSOR), "")


def estimate(kernel, n_out, n_in, rows):
    """(microseconds, binding limit, {limit: microseconds}) of one product."""
    tiles = n_out * n_in / 256
    clocks = {limit: c * tiles / SMS for limit, c in tile_clocks(kernel, rows).items()}
    moved = n_out * n_in / 2048 * unit_bytes(kernel.budget.bits) + 2 * rows * (n_in + n_out)
    clocks["memory"] = moved / SMS / BYTES_A_CLOCK
    times = {limit: c / CLOCK * 1e6 for limit, c in clocks.items()}
    limit = max(times, key=times.get)
    return times[limit], limit, times


def show(kernels):
    """One line an instance and shape of the symmetric, group-of-128 kernels."""
    rows_shown = [k for k in kernels if k.loop and k.budget and plain(k)]
    if not rows_shown:
        return
    print(f"\nroofline, one H200 ({SMS} SMs, {CLOCK / 1e9:.2f} GHz, 4.3 TB/s): microseconds by limit; an estimate")
    print(f"{'kernel':34s} {'rows':>4s} {'shape':8s} {'memory':>7s} {'alu':>7s} {'fma':>7s} {'lsu':>7s} {'issue':>7s}"
          f" {'tensor':>7s} {'stalls':>7s}  bound")
    for kernel in rows_shown:
        kernel.matrix = matrix_kind(kernel)
        for name, n_out, n_in in SHAPES:
            us, limit, times = estimate(kernel, n_out, n_in, kernel.budget.rows)
            label = f"{kernel.name}<{','.join(map(str, kernel.arguments))}>"
            figures = " ".join(f"{times[x]:7.1f}" for x in ("memory", "alu", "fma", "lsu", "issue", "tensor", "stalls"))
            share = 100 * times["memory"] / us
            print(f"{label:34.34s} {int(kernel.budget.rows):4d} {name:8s} {figures}  {limit} ({share:.0f} % of bandwidth)")
    print()


def plain(kernel):
    from budgets import KERNELS
    shown = KERNELS.get(kernel.name, {}).get("shown")
    return shown is None or shown(kernel.arguments)
