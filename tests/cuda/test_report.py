"""The reader of machine code against samples: a kernel of 60 lines as cuobjdump prints it (samples/:
one loop of 4 matrix products on dequantized int4), and small texts written here."""
import os
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import budgets  # noqa: E402
import mutate  # noqa: E402
import report  # noqa: E402
import roofline  # noqa: E402
import sass  # noqa: E402

TOY = "_Z3toyILi3EEv4args"


def sample(name):
    with open(os.path.join(HERE, "samples", name), encoding="utf-8") as file:
        return file.read()


@pytest.fixture
def toy():
    return sass.parse(sample("toy.sass"))[TOY]


def code(*lines):
    """Instructions from "opcode operands" texts, 16 bytes apart, stall count 2."""
    return [sass.Instruction(16 * n, text, 0, 2 << 41) for n, text in enumerate(lines)]


# ---- instructions ----------------------------------------------------------------------------------

def test_every_instruction_is_read(toy):
    assert len(toy) == 104
    assert [i.address for i in toy] == list(range(0, 104 * 16, 16))
    assert toy[0].opcode == "LDC" and toy[0].operands.startswith("R1")


def test_control_word():
    # stall 5, write barrier 1, read barrier 6, waits for barriers 0 and 2
    high = 5 << 41 | 1 << 46 | 6 << 49 | 0b101 << 52
    i = sass.Instruction(0, "@!P0 LDG.E.128 R4, desc[UR4][R2.64]", 0, high)
    assert (i.stall, i.write_barrier, i.read_barrier, i.waits) == (5, 1, 6, 5)
    assert (i.guard, i.word, i.opcode) == ("!P0", "LDG", "LDG.E.128")


def test_control_words_of_the_sample(toy):
    by_address = {i.address: i for i in toy}
    branch = by_address[0x550]
    assert branch.guard == "!P0" and branch.target() == 0x160
    assert all(0 <= i.stall <= 15 for i in toy) and sum(i.stall > 0 for i in toy) > 90


@pytest.mark.parametrize("text,pipe", [
    ("LOP3.LUT R8, R5, 0xf000f, R3, 0xea, !PT", sass.ALU), ("PRMT R1, R2, 0x4240, R3", sass.ALU),
    ("SHF.R.U32.HI R13, RZ, 0x8, R8", sass.ALU), ("IADD3 R1, R2, R3, RZ", sass.ALU),
    ("HADD2 R12, R15, -1032, -1032", sass.FMA), ("HFMA2.MMA R1, -RZ, RZ, 0, 0", sass.FMA),
    ("IMAD.MOV.U32 R7, RZ, RZ, RZ", sass.FMA), ("FFMA R1, R2, R3, R4", sass.FMA),
    ("MUFU.EX2 R1, R2", sass.XU), ("LDS.128 R8, [R3+UR5]", sass.LSU), ("LDGSTS.E.BYPASS.128 [R20], [R26]", sass.LSU),
    ("HMMA.16816.F32 R8, R4, R12, R8", sass.TENSOR), ("HGMMA.64x64x16.F32 R24, R4, gdesc[UR8], R24", sass.TENSOR),
    ("UIADD3 UR4, UR4, 0x4, URZ", sass.UNIFORM), ("R2UR UR4, R2", sass.UNIFORM), ("BRA 0x10", sass.CONTROL),
    ("WARPGROUP.ARRIVE", sass.CONTROL),
])
def test_pipes(text, pipe):
    assert code(text)[0].pipe() == pipe


@pytest.mark.parametrize("text,registers", [
    ("LOP3.LUT R8, R5, 0xf000f, R3, 0xea, !PT", [8]), ("LDS.128 R8, [R3]", [8, 9, 10, 11]),
    ("LDG.E.64 R2, desc[UR4][R6.64]", [2, 3]), ("STS.128 [R3], R8", []), ("ISETP.NE.AND P0, PT, R1, RZ, PT", []),
    ("HMMA.16816.F32 R12, R12, R22, R8", [12, 13, 14, 15]), ("IMAD.WIDE R84, R90, R14, R82", [84, 85]),
    ("BRA 0x10", []), ("CS2R R4, SRZ", [4, 5]),
])
def test_written_registers(text, registers):
    assert code(text)[0].written() == registers


# ---- loops -----------------------------------------------------------------------------------------

def test_main_loop_of_the_sample(toy):
    loop = sass.main_loop(toy)
    assert (loop.first, loop.last, loop.n_tensor()) == (0x160, 0x550, 4)
    body = sass.work(toy, loop)
    counts = sass.counts(body)
    assert len(body) == 64 and counts[sass.TENSOR] == 4
    assert sum(i.word == "LOP3" for i in body) == 16 and sum(i.word in ("HADD2", "HFMA2") for i in body) >= 16
    assert sum(counts.values()) == 64
    assert sass.weight_tiles(body) == 4
    assert sass.stalls(body) == sum(max(1, i.stall) for i in body)


def test_a_loop_that_holds_a_spinning_wait_is_still_the_inner_one():
    program = code("MOV R1, R2", "SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [R1], R2", "@!P0 BRA 0x10",
                   "HMMA.16816.F32 R8, R4, R12, R8", "LOP3.LUT R4, R4, R5, R6, 0xc0, !PT", "@P1 BRA 0x0", "EXIT")
    loop = sass.main_loop(program)
    assert (loop.first, loop.last) == (0, 0x50)
    assert [i.word for i in sass.work(program, loop)] == ["HMMA", "LOP3", "BRA"]


def test_blocks_that_dequantize_for_another_block_count():
    half = "HADD2 R4, R15, -1032, -1032"
    program = code(half, half, half, half, "@P2 BRA 0x60", "FFMA R1, R2, R3, R4",
                   "HGMMA.64x64x16.F32 R24, R4, gdesc[UR8], R24", "@P1 BRA 0x0")
    assert [i.word for i in sass.work(program, sass.main_loop(program))] == ["HADD2"] * 4 + ["BRA", "HGMMA", "BRA"]


def test_inner_of_two_nested_loops():
    program = code("MOV R1, R2", "HMMA.16816.F32 R8, R4, R12, R8", "@P0 BRA 0x10", "@P1 BRA 0x0", "BRA 0x40")
    assert (sass.main_loop(program).first, sass.main_loop(program).last) == (0x10, 0x20)


def test_no_loop():
    assert sass.main_loop(code("HMMA.16816.F32 R8, R4, R12, R8", "EXIT", "BRA 0x20")) is None


def test_token_tiles_share_a_weight_tile():
    body = code("HMMA.16816.F32 R8, R4, R40, R8", "HMMA.16816.F32 R12, R4, R42, R12", "LOP3.LUT R5, R1, R2, R3, 0xea, !PT",
                "HMMA.16816.F32 R8, R4, R44, R8", "HMMA.16816.F32 R12, R20, R44, R12")
    assert sass.weight_tiles(body) == 3


# ---- report ----------------------------------------------------------------------------------------

def test_log():
    found, warnings = report.parse_log(sample("toy.log"))
    assert found == {TOY: [0, 0, 28, 0]} and warnings == []


def test_log_with_spills_and_serialization():
    text = ("ptxas info    : Compiling entry function 'k' for 'sm_90a'\n"
            "    16 bytes stack frame, 12 bytes spill stores, 20 bytes spill loads\n"
            "ptxas info    : Used 255 registers, used 1 barriers, 1024 bytes smem\n"
            "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to\n")
    found, warnings = report.parse_log(text)
    assert found == {"k": [16, 32, 255, 1024]} and len(warnings) == 1


def test_launch_bounds():
    assert report.parse_bounds(".visible .entry k(\n.param .b8 a\n)\n.maxntid 256, 1, 1\n.minnctapersm 2\n{\n") == {"k": [256, 2]}


def kernel_of(name, arguments, code, **more):
    kernel = report.Kernel("90a", "x.cu", "k")
    kernel.name, kernel.arguments, kernel.code = name, arguments, code
    kernel.threads, kernel.blocks, kernel.registers = 256, 2, 128
    for key, value in more.items():
        setattr(kernel, key, value)
    report.check(kernel)
    return kernel


SMALL = (4, budgets.SYMMETRIC, 1, 0, 1)
GOOD_LOOP = ["LOP3.LUT R4, R1, 0xf000f, R3, 0xea, !PT", "LOP3.LUT R5, R1, 0xf000f0, R3, 0xea, !PT", "SHF.R.U32.HI R2, RZ, 0x8, R1",
             "LOP3.LUT R6, R2, 0xf000f, R3, 0xea, !PT", "LOP3.LUT R7, R2, 0xf000f0, R3, 0xea, !PT", "HADD2 R4, R4, -1032, -1032",
             "HFMA2 R5, R5, R20, R21", "HADD2 R6, R6, -1032, -1032", "HFMA2 R7, R7, R20, R21",
             "HMMA.16816.F32 R8, R4, R12, R8", "@P0 BRA 0x0"]


def test_budget_kept():
    kernel = kernel_of("small_kernel", SMALL, code(*GOOD_LOOP))
    assert kernel.wrong == [] and kernel.loop["alu"] == 5 and kernel.loop["fma"] == 4 and kernel.loop["others"] == 10


@pytest.mark.parametrize("change,says", [
    ({"spills": 8}, "local memory"), ({"stack": 8}, "local memory"), ({"registers": 136}, "registers"),
    ({"code": code(*(["LOP3.LUT R30, R1, R2, R3, 0xea, !PT"] * 4 + GOOD_LOOP))}, "ALU a tile"),
    ({"code": code(*(["FFMA R30, R1, R2, R3"] * 4 + GOOD_LOOP))}, "instructions a tile"),
    ({"code": code("STL [R1], R2", *GOOD_LOOP[:-1], "@P0 BRA 0x10")}, "local memory"),
    ({"name": "unheard_of"}, "states no budget"),
    ({"static_shared": 60 << 10}, "shared memory"),
])
def test_budget_broken(change, says):
    kernel = kernel_of("small_kernel", SMALL, code(*GOOD_LOOP))
    for key, value in change.items():
        setattr(kernel, key, value)
    kernel.wrong = []
    report.check(kernel)
    assert any(says in wrong for wrong in kernel.wrong), kernel.wrong


def test_roofline_of_the_budget():
    kernel = kernel_of("small_kernel", SMALL, code(*GOOD_LOOP))
    kernel.matrix = roofline.matrix_kind(kernel)
    us, limit, times = roofline.estimate(kernel, 28672, 4096, 8)
    # 60.6 MB and the rows at 4.3 TB/s; dequantization at 2.5 clocks a tile takes a third of that
    assert limit == "memory" and 14 < us < 15 and 4.5 < times["alu"] < 5.2


def test_units_have_the_size_of_layout_f64():
    assert roofline.unit_bytes(4) == 1056 and roofline.unit_bytes(8) == 2080


# ---- mutants ---------------------------------------------------------------------------------------

def texts(source):
    return [source[start:end] for start, end, _ in mutate.sites_of("x.cu", source)]


def test_sites():
    source = ("/* block_sync(); in words */\nblock_sync();\n    cp_async_wait<S::STAGES - 1>();\n"
              "mbar_wait(&b.full[(i + 1) % 2],\n          phase);\n    s.phase ^= 1u;\n"
              "    if (++r.slot == n)\n        r.slot = 0;\n    int stage = 0;\n    printf(\"warp_sync()\");\n    if (slot == 1) x();\n")
    assert texts(source) == ["block_sync()", "cp_async_wait<S::STAGES - 1>()", "mbar_wait(&b.full[(i + 1) % 2],\n          phase)",
                             "s.phase ^= 1u", "++r.slot", "r.slot = 0"]


def test_definitions_are_no_sites():
    assert texts("DEVICE void block_sync() { __syncthreads(); }\n") == []
