#!/usr/bin/env python3
"""report.py [ARCH...]: what the compiler made of the kernels (build/nvcc, by build_all), and what that
allows on an H200. No GPU needed.

Fails on: spills, local memory (a stack frame), registers or shared memory over the occupancy that a
kernel states, wgmma serialization, inner loops over their budget of instructions (budgets.py).
Prints one line a kernel (its worst instance), then the roofline estimate. All of it, an instance a
line: build/nvcc/report.txt.
"""
import glob
import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import budgets  # noqa: E402
import roofline  # noqa: E402
import sass  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILT = os.path.join(ROOT, "build", "nvcc")

# Shared memory of a multiprocessor (CUDA programming guide, compute capabilities); a block takes 1 KB
# more than it asks for.
SHARED = {"80": 164 << 10, "86": 100 << 10, "89": 100 << 10, "90a": 228 << 10, "120": 100 << 10}
REGISTERS = 65536
SERIALIZED = re.compile(r"wgmma.*serialized|\(C75(10|14|15|16)\)|warpgroup\.(arrive|wait) is injected", re.I)


def tool(name):
    """cuobjdump: from PATH, the toolkit, or PyPI's nvidia-cuda-cuobjdump in the virtual environment."""
    places = [shutil.which(name), os.path.join(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin", name)]
    places += glob.glob(os.path.join(sys.prefix, "lib/python3*/site-packages/nvidia/*/bin", name))
    places += glob.glob(os.path.join(ROOT, "build/venv/lib/python3*/site-packages/nvidia/*/bin", name))
    for place in places:
        if place and os.access(place, os.X_OK):
            return place
    sys.exit(f"no {name}: pip install -r tests/cuda/requirements.txt")


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


class Kernel:
    """One instance of one kernel on one architecture."""

    def __init__(self, arch, file, mangled):
        self.arch, self.file, self.mangled = arch, file, mangled
        self.name, self.arguments = mangled, ()
        self.registers = self.stack = self.spills = self.static_shared = 0
        self.threads, self.blocks = 1024, 1
        self.code = []
        self.wrong, self.loop = [], None


def parse_log(text):
    """{mangled: (stack, spill bytes, registers, static shared)} and the lines that warn."""
    found, name, warnings = {}, None, []
    for line in text.split("\n"):
        match = re.search(r"Compiling entry function '(\S+)'", line) or re.search(r"Function properties for (\S+)", line)
        if match:
            name = match.group(1)
            found.setdefault(name, [0, 0, 0, 0])
        match = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line)
        if match and name:
            found[name][0] = int(match.group(1))
            found[name][1] = int(match.group(2)) + int(match.group(3))
        match = re.search(r"Used (\d+) registers", line)
        if match and name:
            found[name][2] = int(match.group(1))
            shared = re.search(r"(\d+) bytes smem", line)
            found[name][3] = int(shared.group(1)) if shared else 0
        if SERIALIZED.search(line):
            warnings.append(line.strip())
    return found, warnings


def parse_bounds(ptx):
    """{mangled: (threads, blocks)} of the entries' launch bounds."""
    found, name = {}, None
    for line in ptx.split("\n"):
        match = re.match(r"(?:\.visible )?\.entry (\w+)", line)
        if match:
            name = match.group(1)
            found[name] = [1024, 1]
        match = re.match(r"\.maxntid (\d+)", line)
        if match and name:
            found[name][0] = int(match.group(1))
        match = re.match(r"\.minnctapersm (\d+)", line)
        if match and name:
            found[name][1] = int(match.group(1))
    return found


def demangle(kernels):
    names = output("c++filt", *[k.mangled for k in kernels]).split("\n")
    for kernel, text in zip(kernels, names):
        match = re.match(r"(?:void )?(\w+)(?:<(.*)>)?\(", text)
        if not match:
            continue
        kernel.name = match.group(1)
        values = []
        for value in (match.group(2) or "").split(", "):
            value = re.sub(r"^\(\w+\)", "", value)
            if value:
                values.append({"true": 1, "false": 0}.get(value, int(value) if value.lstrip("-").isdigit() else 0))
        kernel.arguments = tuple(values)


def read(arch, cuobjdump):
    kernels, warnings = [], []
    for path in sorted(glob.glob(os.path.join(BUILT, arch, "*.o"))):
        file = os.path.basename(path)[:-2] + ".cu"
        with open(path[:-2] + ".log", encoding="utf-8") as log:
            figures, warned = parse_log(log.read())
        warnings += [f"{file}: {line}" for line in warned]
        if not figures:
            continue
        bounds, code = parse_bounds(output(cuobjdump, "-ptx", path)), sass.parse(output(cuobjdump, "-sass", path))
        for mangled, (stack, spills, registers, shared) in figures.items():
            kernel = Kernel(arch, file, mangled)
            kernel.stack, kernel.spills, kernel.registers, kernel.static_shared = stack, spills, registers, shared
            kernel.threads, kernel.blocks = bounds.get(mangled, (1024, 1))
            kernel.code = code.get(mangled, [])
            kernels.append(kernel)
    if kernels:
        demangle(kernels)
    return kernels, warnings


def check_occupancy(kernel, row):
    warps = -(-kernel.threads // 32)
    taken = kernel.blocks * warps * (-(-kernel.registers * 32 // 256) * 256)
    if taken > REGISTERS:
        kernel.wrong.append(f"{kernel.registers} registers: {kernel.blocks} blocks of {kernel.threads} threads do not fit")
    most = SHARED[kernel.arch] - 1024
    shared = row["shared"](kernel.arguments, most) + kernel.static_shared
    kernel.shared = shared
    blocks = kernel.blocks if kernel.arch in ("80", "90a") else 1
    if blocks * (shared + 1024) > SHARED[kernel.arch]:
        kernel.wrong.append(f"{shared} bytes of shared memory: {blocks} blocks do not fit")


def check_loop(kernel, budget):
    """Issue slots of the inner loop's work an A tile of 16 x 16 weights, against the budget."""
    loop = sass.main_loop(kernel.code)
    if loop is None:
        # Compiled out on this architecture (copy engine, wgmma): no matrix instruction at all.
        if any(i.pipe() == sass.TENSOR for i in kernel.code):
            kernel.wrong.append("matrix instructions outside any loop")
        return
    body = sass.work(kernel.code, loop)
    counts, tiles = sass.counts(body), sass.weight_tiles(body)
    if any(i.word in ("IMMA", "IGMMA") for i in body):
        tiles *= 2  # 32 inputs an instruction
    others = sum(n for pipe, n in counts.items() if pipe != sass.TENSOR)
    kernel.loop = {pipe: n / tiles for pipe, n in counts.items()}
    kernel.loop.update(others=others / tiles, stalls=sass.stalls(body) / tiles)
    arithmetic = budget.alu + budget.fma
    alu_max = budget.alu + (budget.slack - 1) * arithmetic
    all_max = budget.slack * arithmetic + budget.other
    kernel.loop.update(alu_max=alu_max, all_max=all_max)
    if kernel.loop[sass.ALU] > alu_max + 1e-9:
        kernel.wrong.append(f"inner loop: {kernel.loop[sass.ALU]:.2f} ALU a tile, budget {alu_max:.2f}")
    if kernel.loop["others"] > all_max + 1e-9:
        kernel.wrong.append(f"inner loop: {kernel.loop['others']:.2f} instructions a tile, budget {all_max:.2f}")


def check(kernel):
    if not budgets.started(kernel.name, kernel.arguments, kernel.arch):
        kernel.shared = kernel.static_shared
        return
    if kernel.spills or kernel.stack:
        kernel.wrong.append(f"local memory: {kernel.stack} bytes of stack, {kernel.spills} bytes spilled")
    if any(i.word in ("LDL", "STL") for i in kernel.code):
        kernel.wrong.append("reads or writes local memory")
    row = budgets.KERNELS.get(kernel.name)
    kernel.shared = kernel.static_shared
    if row is None:
        kernel.wrong.append("states no budget: add it to tests/cuda/budgets.py")
        return
    check_occupancy(kernel, row)
    budget = row["loop"](kernel.arguments) if row.get("loop") else None
    kernel.budget = budget
    if budget is not None and kernel.code:
        check_loop(kernel, budget)


HEAD = (f"{'kernel':26s} {'sm':4s} {'n':>3s} {'thr':>4s} {'blk':>3s} {'regs':>4s} {'shared':>7s} {'local':>5s}"
        f" | a 16x16 tile: {'alu':>5s} {'fma':>5s} {'lsu':>5s} {'other':>5s} {'all':>6s} {'budget':>6s} {'stall':>6s}")


def line_of(kernel, name, n):
    text = (f"{name:26.26s} {kernel.arch:4s} {n:3d} {kernel.threads:4d} {kernel.blocks:3d} {kernel.registers:4d}"
            f" {kernel.shared:7d} {kernel.stack + kernel.spills:5d}")
    if kernel.loop:
        l = kernel.loop
        rest = l[sass.XU] + l[sass.UNIFORM] + l[sass.CONTROL]
        text += (f" |               {l['alu']:5.1f} {l['fma']:5.1f} {l['lsu']:5.1f} {rest:5.1f} {l['others']:6.1f}"
                 f" {l['all_max']:6.1f} {l['stalls']:6.1f}")
    return text + ("  FAILED" if kernel.wrong else "")


def badness(kernel):
    over = kernel.loop["others"] / kernel.loop["all_max"] if kernel.loop else 0
    return (len(kernel.wrong), over, kernel.registers)


def main():
    archs = sys.argv[1:] or [a for a in ("80", "86", "89", "90a", "120") if glob.glob(os.path.join(BUILT, a, "*.o"))]
    cuobjdump = tool("cuobjdump")
    os.environ["PATH"] += os.pathsep + os.path.dirname(cuobjdump)
    everything, warnings = [], []
    for arch in archs:
        kernels, warned = read(arch, cuobjdump)
        everything += kernels
        warnings += [f"sm_{arch} {line}" for line in warned]
    if not everything:
        sys.exit("no kernels in build/nvcc: run tests/cuda/build_all")
    for kernel in everything:
        check(kernel)
    with open(os.path.join(BUILT, "report.txt"), "w", encoding="utf-8") as full:
        print(HEAD, file=full)
        for k in everything:
            print(line_of(k, f"{k.name}<{','.join(map(str, k.arguments))}>", 1), file=full)
            for wrong in k.wrong:
                print(f"    {wrong}", file=full)
    print(HEAD)
    groups = {}
    for kernel in everything:
        groups.setdefault((kernel.name, kernel.arch), []).append(kernel)
    failed = [k for k in everything if k.wrong]
    for (name, _), group in groups.items():
        print(line_of(max(group, key=badness), name, len(group)))
    roofline.show([k for k in everything if k.arch == "90a"])
    for kernel in failed[:24]:
        print(f"FAILED  sm_{kernel.arch} {kernel.name}<{', '.join(map(str, kernel.arguments))}>: {'; '.join(kernel.wrong)}")
    for line in warnings[:12]:
        print(f"FAILED  {line}")
    print(f"kernels: {len(everything) - len(failed)} within budget, {len(failed)} failed, {len(warnings)} warnings"
          f" (all: build/nvcc/report.txt)")
    return 1 if failed or warnings else 0


if __name__ == "__main__":
    sys.exit(main())
