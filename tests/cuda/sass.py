"""Machine code as cuobjdump -sass prints it: instructions, control words, pipes, loops.

An instruction is 128 bits. Bits 105..125 are the control word: stall count (105..108), yield (109),
write and read barrier (110..115), barriers waited for (116..121), operand reuse (122..125).
"""
import re

ALU, FMA, XU, LSU, TENSOR, UNIFORM, CONTROL = "alu", "fma", "xu", "lsu", "tensor", "uniform", "control"
PIPES = (ALU, FMA, XU, LSU, TENSOR, UNIFORM, CONTROL)

# Pipe of an opcode by its first word. U* are the uniform pipe; what is not here is ALU: the integer,
# logic, compare, select and convert-pack instructions, which is the pipe that binds dequantization.
_PIPES = {}
for _pipe, _words in (
    (FMA, "FADD FMUL FFMA IMAD HADD2 HMUL2 HFMA2 IDP DFMA DADD DMUL"),
    (XU, "MUFU F2I I2F F2F FRND POPC FLO BREV"),
    (LSU, "LDG STG LDS STS LDL STL LD ST LDSM STSM LDGSTS LDGDEPBAR ATOM ATOMG ATOMS RED SHFL MOVM LDC CCTL"
          " MATCH UBLKCP UBLKPF UTMALDG UTMASTG SYNCS S2R ATOMS QSPC ERRBAR CGAERRBAR MEMBAR FENCE"),
    (TENSOR, "HMMA IMMA DMMA BMMA QMMA OMMA HGMMA IGMMA QGMMA BGMMA"),
    (CONTROL, "BRA BRX JMP JMX CALL RET EXIT BSSY BSYNC BREAK WARPSYNC BAR DEPBAR NOP YIELD NANOSLEEP KILL"
              " BPT ENDCOLLECTIVE COLLECTIVE ACQBULK PREEXIT WARPGROUP WARPGROUPSET USETMAXREG ELECT VOTE"
              " BMOV RPCMOV B2R R2B LEPC CGABAR DEPBAR ACQSHMINIT"),
    (UNIFORM, "R2UR S2UR REDUX"),
):
    for _word in _words.split():
        _PIPES[_word] = _pipe

_FUNCTION = re.compile(r"^\s*Function : (\S+)")
_LINE = re.compile(r"^\s*/\*([0-9a-f]{4,6})\*/\s+(.*?)\s*;\s+/\* 0x([0-9a-f]{16}) \*/")
_TAIL = re.compile(r"^\s*/\* 0x([0-9a-f]{16}) \*/\s*$")
_GUARD = re.compile(r"^@(!?U?P[0-9T]+)\s+")
_REGISTER = re.compile(r"\bR([0-9]+)\b")


class Instruction:
    """address, opcode ("HMMA.16816.F32"), operands (text), guard ("!P0" or None), control fields."""

    def __init__(self, address, text, low, high):
        self.address = address
        guard = _GUARD.match(text)
        self.guard = guard.group(1) if guard else None
        if guard:
            text = text[guard.end():]
        self.opcode, _, self.operands = text.partition(" ")
        self.word = self.opcode.split(".")[0]
        self.low, self.high = low, high
        self.stall = high >> 41 & 0xF
        self.write_barrier = high >> 46 & 7
        self.read_barrier = high >> 49 & 7
        self.waits = high >> 52 & 0x3F

    def pipe(self):
        if self.word in _PIPES:
            return _PIPES[self.word]
        return UNIFORM if self.word.startswith("U") else ALU

    def target(self):
        """Address a branch goes to, or None."""
        if self.word not in ("BRA", "JMP"):
            return None
        found = re.search(r"0x([0-9a-f]+)\s*$", self.operands)
        return int(found.group(1), 16) if found else None

    def never(self):
        """@!PT: what the assembler puts in front of LDGSTS; costs an issue slot, does nothing."""
        return self.guard == "!PT"

    def written(self):
        """Numbers of the registers that it writes."""
        if self.pipe() == CONTROL or self.word in ("STG", "STS", "ST", "STL", "RED", "LDGSTS", "STSM"):
            return []
        first = self.operands.split(",")[0].strip()
        if first.startswith(("P", "UP")):  # a predicate first, the register behind it
            first = (self.operands.split(",") + [""])[1].strip()
        found = re.match(r"R([0-9]+)\b", first)
        if not found:
            return []
        width = 1
        if self.pipe() == TENSOR:
            width = 4
        elif ".128" in self.opcode or ".M88.4" in self.opcode or self.opcode.endswith(".4"):
            width = 4
        elif ".64" in self.opcode or "WIDE" in self.opcode or self.word in ("CS2R",) and ".32" not in self.opcode:
            width = 2
        start = int(found.group(1))
        return list(range(start, start + width))


def parse(text):
    """{function: [Instruction]} of cuobjdump's output."""
    functions, current, waiting = {}, None, None
    for line in text.split("\n"):
        found = _FUNCTION.match(line)
        if found:
            current = functions.setdefault(found.group(1), [])
            continue
        if current is None:
            continue
        found = _LINE.match(line)
        if found:
            waiting = (int(found.group(1), 16), found.group(2), int(found.group(3), 16))
            continue
        found = _TAIL.match(line)
        if found and waiting:
            current.append(Instruction(*waiting, int(found.group(1), 16)))
            waiting = None
    return functions


class Loop:
    """A backward branch: the instructions from its target to itself, and what lies inside."""

    def __init__(self, body):
        self.body = body
        self.first, self.last = body[0].address, body[-1].address

    def holds(self, other):
        return self is not other and self.first <= other.first and other.last <= self.last

    def n_tensor(self):
        return sum(i.pipe() == TENSOR for i in self.body)


def loops(instructions):
    """One Loop for each address that some later branch goes back to."""
    index = {i.address: n for n, i in enumerate(instructions)}
    last = {}
    for n, i in enumerate(instructions):
        target = i.target()
        if target is not None and target <= i.address and target in index:
            last[target] = n
    found = [Loop(instructions[index[t]:n + 1]) for t, n in last.items()]
    # `BRA .` behind EXIT is padding
    return sorted((l for l in found if len(l.body) > 1), key=lambda l: l.first)


def inner_loops(instructions):
    """Loops with matrix instructions that hold no other such loop."""
    with_tensor = [l for l in loops(instructions) if l.n_tensor()]
    return [l for l in with_tensor if not any(l.holds(o) for o in with_tensor)]


def main_loop(instructions):
    """The inner loop with the most matrix instructions, or None."""
    found = inner_loops(instructions)
    return max(found, key=lambda l: (l.n_tensor(), len(l.body))) if found else None


def _is_work(block):
    """A block with matrix instructions, or one that dequantizes for those of another: packed halves."""
    halves = sum(i.word in ("HADD2", "HFMA2", "HMUL2") and ".F32" not in i.opcode and ".MMA" not in i.opcode for i in block)
    return halves >= 4 or any(i.pipe() == TENSOR for i in block)


def work(instructions, loop):
    """The basic blocks of a loop that dequantize and multiply, in order: what is done for every tile.
    What stands between them by address (refilling a ring, epilogues, waits that spin) runs once in
    many tiles or not at all."""
    targets = {i.target() for i in instructions} | {loop.first}
    blocks = [[]]
    for i in loop.body:
        if i.address in targets and blocks[-1]:
            blocks.append([])
        blocks[-1].append(i)
        if i.word in ("BRA", "BRX", "EXIT", "RET", "JMP"):
            blocks.append([])
    return [i for block in blocks if _is_work(block) for i in block]


def weight_tiles(body):
    """How many different A operands the matrix instructions have: a fragment of 16 x 16 weights (16 x
    32 bytes) that several token tiles share counts once. A register written since is another one."""
    version, seen = {}, set()
    for n, i in enumerate(body):
        if i.pipe() == TENSOR:
            operands = [o.strip() for o in i.operands.split(",")]
            # HMMA d, a, b, c; HGMMA from registers: d, a, gdesc, d. From shared memory: no register.
            found = _REGISTER.match(operands[1]) if len(operands) > 1 else None
            if found:
                first = int(found.group(1))
                wide = 2 if "1688" in i.opcode else 4
                seen.add((first,) + tuple(version.get(r, -1) for r in range(first, first + wide)))
            else:
                seen.add(("shared", n))
        if not i.never():
            for register in i.written():
                version[register] = n
    return len(seen)


def counts(body):
    """Issue slots a pipe."""
    total = dict.fromkeys(PIPES, 0)
    for i in body:
        total[i.pipe()] += 1
    return total


def stalls(body):
    """Clocks that one warp needs at least: the sum of its stall counts."""
    return sum(max(1, i.stall) for i in body)
