"""What the CUDA engine's machine code is made of: would anything in it keep a GPU from running at its memory's pace?

    python -m benchmarks.sass                        the installed library, every architecture in it
    python -m benchmarks.sass out.fatbin --all       another file; every kernel, not only the hot ones

No GPU is needed: cuobjdump takes the machine code apart (packages `nvidia-cuda-cuobjdump`, `nvidia-cuda-nvdisasm`).
Counts are exact and say nothing of time. `EXPECTED` holds what each kernel may take and must contain;
`tests/test_sass.py` keeps it.

An inner loop is a backward branch with no other one inside. Its cost is the instructions that a warp issues per 512
bytes of the cache or of weights, 16 in each lane; the budget beside it is how many a card can issue while its memory
delivers 512 bytes: multiprocessors * 4 schedulers * clock / (bandwidth / 512). Under way are the bytes that one turn of
the loop asks for, over the smallest grid that one game of base-0.5b gives; needed, what fills the memory's latency.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SHARE = 0.8  # of the memory's pace that the hot kernels' instructions must allow
LATENCY = 0.6e-6  # seconds from a load to its answer, assumed
ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")


@dataclass(frozen=True)
class Limits:
    """Of a multiprocessor. Source: cuda_occupancy.h of CUDA 13.0; CUDA programming guide, compute capabilities."""

    threads: int
    blocks: int
    shared: int  # bytes
    card: str  # whose data sheet gives what follows
    multiprocessors: int
    clock: float  # Hz
    bandwidth: float  # bytes/s
    registers: int = 65536
    register_unit: int = 256  # registers are given out so many at a time, to a warp
    shared_unit: int = 128
    partitions: int = 4  # warps are spread over these

    @property
    def budget(self) -> float:
        """Instructions that all warps of the card can issue while its memory delivers 512 bytes."""
        return self.multiprocessors * 4 * self.clock / (self.bandwidth / 512)

    @property
    def needed(self) -> float:
        """Bytes that must be under way at once for 70 % of the bandwidth, at LATENCY."""
        return 0.7 * self.bandwidth * LATENCY


LIMITS = {
    "sm_80": Limits(2048, 32, 164 << 10, "A100 40 GB", 108, 1.41e9, 1555e9),
    "sm_86": Limits(1536, 16, 100 << 10, "RTX 3090", 82, 1.7e9, 936e9),
    "sm_89": Limits(1536, 24, 100 << 10, "RTX 4090", 128, 2.52e9, 1008e9),
    "sm_90": Limits(2048, 32, 228 << 10, "H100 SXM", 132, 1.76e9, 3350e9),
    "sm_100": Limits(2048, 32, 228 << 10, "B200", 148, 1.97e9, 8000e9),
    "sm_120": Limits(1536, 24, 100 << 10, "RTX 5090", 170, 2.41e9, 1792e9),
}


@dataclass(frozen=True)
class Expected:
    """What a kernel may take at most, and what its machine code must contain."""

    threads: int = 128  # in a block, at base-0.5b's shapes
    blocks: int = 0  # at base-0.5b and one game, the smallest grid; 0: not of interest
    registers: int = 128  # four blocks of 128 threads on a multiprocessor
    shared: int = 4096  # bytes; sm_90 and later count 1,024 of their own
    local: int = 0  # bytes per thread in local memory: spilled registers, and arrays that found no place in registers
    has: tuple[str, ...] = ()  # instructions that are meant, by the start of their names
    heads: int = 1  # blocks that read the same bytes: query heads of one KV head, where a block has only one of them
    loads: int = 4  # bytes per lane of the narrowest load that an inner loop with products may have
    memory: float = 1.0  # share of the bytes loaded in such a loop that is cache or weights, the rest activations
    slow: tuple[str, ...] = ()  # architectures whose memory is too fast for such a loop

    def under_way(self, loop: Loop) -> float:
        """Return the different bytes of cache or weights that all threads ask for in one turn of a loop."""
        return self.blocks * self.threads * loop.loaded * self.memory / self.heads

    def cost(self, loop: Loop) -> float:
        """Return the instructions of a loop per 512 bytes that a warp loads of cache or weights, once for all heads."""
        return loop.instructions / (loop.loaded * self.memory / 16) * self.heads


# Kernels without a row get `Expected()`; a row may be for one instance of a template, "product<16>", or for all. When a
# kernel has become better, tighten its row.
EXPECTED = {
    # Query heads of one KV head that a block has: the fewer, the more blocks, which one game needs.
    "attend<1>": Expected(
        256, blocks=24, registers=64, shared=512, has=("IDP.4A", "SHFL", "LDG.E.128"), heads=4, slow=("sm_100",)
    ),
    "attend<2>": Expected(
        256, blocks=12, registers=72, shared=768, has=("IDP.4A", "SHFL", "LDG.E.128"), heads=2, slow=("sm_100",)
    ),
    "attend<4>": Expected(256, blocks=6, registers=112, shared=1536, has=("IDP.4A", "SHFL", "LDG.E.128")),
    # Up to four rows with dp4a, more with tensor cores. A quarter of the loads of the former are weights at one row.
    "product8": Expected(
        blocks=48, registers=72, shared=8192, has=("IDP.4A", "IMMA", "LDG.E.128"), loads=16, memory=0.5
    ),
    "product4": Expected(registers=72, shared=8192, has=("IDP.4A", "IMMA", "LDG.E.128")),
    # All of a pass in one: attention of one head, products of one or two rows.
    "stay_for_step": Expected(
        threads=512,
        registers=128,
        shared=28 * 1024,
        has=("IDP.4A", "SHFL", "LDG.E.128", "MEMBAR", "CCTL.IVALL", "CCTL.E.PF2"),  # barrier, read ahead
    ),
    "turn_heads": Expected(threads=576, registers=56, shared=0, has=("SHFL",)),
    "normalise": Expected(registers=40, shared=68),
    "gate": Expected(registers=40, shared=64),
    "quantise": Expected(registers=40, shared=64),
    "commit": Expected(threads=64, registers=40, shared=0),
    "add_paths": Expected(registers=88, has=("IDP.4A",)),
    "draw_code": Expected(registers=80, shared=18 * 1024, has=("IDP.4A",)),
    "embed": Expected(registers=56),
    # Of the canvas.
    "renew": Expected(registers=56, shared=0, has=("SHFL", "VOTE")),
    "repaint": Expected(registers=64, shared=6400),
    "observe": Expected(registers=40, shared=0),
    # Of the self-test; 64 values in one thread.
    "evaluate": Expected(registers=32),
    "quantise_groups": Expected(local=256),
    "exchange": Expected(threads=32, registers=40, has=("SHFL", "VOTE", "IDP.4A")),
    "multiply": Expected(threads=32, registers=40, has=("IMMA",)),
    "copy_memory": Expected(threads=256, registers=40, shared=0),
    "read_memory": Expected(threads=256, registers=48, shared=0),
}
HOT = ("attend", "product8", "product4", "stay_for_step")


@dataclass
class Loop:
    """An innermost loop: its instructions and their operation codes."""

    start: int
    end: int
    codes: Counter[str] = field(default_factory=Counter)

    @property
    def instructions(self) -> int:
        return self.codes.total()

    def count(self, start: str) -> int:
        """Count instructions by the start of their names."""
        return sum(n for code, n in self.codes.items() if code.startswith(start))

    @property
    def loaded(self) -> int:
        """Bytes that a lane loads from global memory in one turn; loads of 1 or 2 bytes are scales, not counted."""
        return sum(n * width(code) for code, n in self.codes.items() if is_load(code) and width(code) >= 4)


@dataclass
class Kernel:
    """One kernel on one architecture."""

    architecture: str
    name: str
    registers: int = 0
    shared: int = 0
    local: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    loops: list[Loop] = field(default_factory=list)

    @property
    def expected(self) -> Expected:
        return EXPECTED.get(self.name) or EXPECTED.get(self.family) or Expected()

    @property
    def family(self) -> str:
        """The name without a template's numbers."""
        return self.name.split("<")[0]

    @property
    def spill_instructions(self) -> int:
        """Loads and stores of local memory."""
        return sum(n for code, n in self.codes.items() if code.startswith(("LDL", "STL")))

    def loads(self) -> dict[int, int]:
        """Count loads from global memory by their bytes per lane."""
        found: Counter[int] = Counter()
        for code, n in self.codes.items():
            if is_load(code):
                found[width(code)] += n
        return dict(sorted(found.items()))

    def main_loops(self) -> list[Loop]:
        """Loops that multiply what they load, with dp4a or on tensor cores; no remainders of unrolled ones."""
        found = []
        for kind in ("IDP", "IMMA"):
            count = {id(loop): loop.count(kind) for loop in self.loops if loop.loaded}
            most = max(count.values(), default=0)
            found += [loop for loop in self.loops if 0 < most <= 2 * count.get(id(loop), 0) and loop not in found]
        return found


def is_load(code: str) -> bool:
    return code.startswith(("LDG", "LDGSTS"))


def width(code: str) -> int:
    """Return the bytes per lane of a load or store, from its operation code: LDG.E.128, LDG.E.U8, LDG.E."""
    parts = code.split(".")
    for part in parts:
        if part in ("64", "128", "256"):
            return int(part) // 8
        if part in ("U8", "S8"):
            return 1
        if part in ("U16", "S16"):
            return 2
    return 4


def occupancy(architecture: str, registers: int, shared: int, threads: int) -> float:
    """Return the share of a multiprocessor's threads that blocks of a kernel can fill.

    Args: shared: bytes of a block, of which sm_90 and later have counted their own 1,024; older ones take that too.
    """
    limits = LIMITS[architecture]
    warps = -(-threads // 32)
    unit = limits.register_unit
    per_warp = max(-(-registers * 32 // unit) * unit, unit)
    by_registers = limits.registers // limits.partitions // per_warp * limits.partitions // warps
    own = 0 if int(architecture[3:]) >= 90 and shared else 1024
    by_shared = limits.shared // (-(-(shared + own) // limits.shared_unit) * limits.shared_unit)
    blocks = min(limits.blocks, limits.threads // (warps * 32), by_registers, by_shared)
    return blocks * warps * 32 / limits.threads


def find_tool(name: str) -> str:
    """Return the path of a CUDA tool, of its package or on PATH. Raises: FileNotFoundError naming the package."""
    spec = importlib.util.find_spec("nvidia")
    for place in spec.submodule_search_locations or () if spec else ():
        for path in sorted(Path(place).glob(f"*/bin/{name}")):
            return str(path)
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name}: expected it installed, `pip install nvidia-cuda-{name}`, or on PATH")
    return found


def installed_library() -> Path:
    """Return the CUDA engine of this installation. Raises: FileNotFoundError where it was not built."""
    spec = importlib.util.find_spec("gamegen_env.engine._cuda")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("gamegen_env.engine._cuda: expected it built; it needs nvcc, see kernels/README.md")
    return Path(spec.origin)


def dumped(path: Path, option: str) -> list[str]:
    nvdisasm = Path(find_tool("nvdisasm")).parent
    environment = {**os.environ, "PATH": f"{nvdisasm}{os.pathsep}{os.environ.get('PATH', '')}"}
    result = subprocess.run([find_tool("cuobjdump"), option, path], capture_output=True, text=True, env=environment)
    if result.returncode:
        raise ValueError(f"{path}: expected CUDA machine code, got from cuobjdump: {result.stderr.strip()}")
    return result.stdout.splitlines()


def short(mangled: str) -> str:
    """Return a kernel's own name with its template's numbers: _ZN7gamegen4cuda6attendILi4EEv... -> attend<4>."""
    rest, name = mangled.removeprefix("_ZN").removeprefix("_Z"), mangled
    while match := re.match(r"(\d+)", rest):
        length = int(match[1])
        name, rest = rest[match.end() :][:length], rest[match.end() + length :]
    arguments = re.match(r"I((?:L[a-z]\d+E)+)E", rest)
    return name + ("<" + ",".join(re.findall(r"L[a-z](\d+)E", arguments[1])) + ">" if arguments else "")


_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)\s*(.*?)\s*;")
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


def read(path: Path) -> list[Kernel]:
    """Take a library, object or fatbin apart. Raises: ValueError or FileNotFoundError naming what was expected."""
    kernels: dict[tuple[str, str], Kernel] = {}
    for architecture, name, line in _by_kernel(dumped(path, "--dump-resource-usage")):
        if usage := _USAGE.search(line):
            registers, stack, shared, local = map(int, usage.groups())
            kernels[architecture, name] = Kernel(architecture, short(name), registers, shared, stack + local)
    instructions: dict[tuple[str, str], list[tuple[int, str, str]]] = {key: [] for key in kernels}
    for architecture, name, line in _by_kernel(dumped(path, "-sass")):
        if (match := _INSTRUCTION.match(line)) and (architecture, name) in instructions:
            instructions[architecture, name].append((int(match[1], 16), match[2], match[3]))
    for key, found in instructions.items():
        kernels[key].codes = Counter(code for _, code, _ in found)
        kernels[key].loops = loops_of(found)
    if not kernels or any(not architecture for architecture, _ in kernels):  # a cubin does not say what it is for
        raise ValueError(f"{path}: expected CUDA kernels and their architectures, got {sorted(kernels)[:3]}")
    return list(kernels.values())


def _by_kernel(lines: list[str]) -> Iterator[tuple[str, str, str]]:
    architecture = name = ""
    for line in lines:
        if line.startswith("arch ="):
            architecture = line.split()[2]
        elif match := re.match(r"\s*Function\s*:?\s*(\w+)", line):
            name = match[1]
        else:
            yield architecture, name, line


def loops_of(instructions: list[tuple[int, str, str]]) -> list[Loop]:
    """Find the innermost loops of (address, code, operands): branches backward with no other one inside."""
    spans = set()
    for address, code, operands in instructions:
        targets = re.findall(r"0x[0-9a-f]+", operands) if code.startswith("BRA") else []
        if targets and int(targets[-1], 16) < address:
            spans.add((int(targets[-1], 16), address))
    inner = [s for s in spans if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
    return [Loop(a, b, Counter(code for at, code, _ in instructions if a <= at <= b)) for a, b in sorted(inner)]


def faults(kernel: Kernel) -> list[str]:
    """Return what of a kernel is not as `EXPECTED` has it."""
    want, found = kernel.expected, []
    for name in ("registers", "local"):
        if getattr(kernel, name) > getattr(want, name):
            found.append(f"{name}: expected at most {getattr(want, name)}, got {getattr(kernel, name)}")
    own = 1024 if kernel.shared and int(kernel.architecture[3:]) >= 90 else 0
    if kernel.shared - own > want.shared:
        found.append(f"shared: expected at most {want.shared} bytes, got {kernel.shared - own}")
    for start in want.has:
        if not any(code.startswith(start) for code in kernel.codes):
            found.append(f"instructions: expected {start}, got none")
    for loop in kernel.main_loops():
        narrow = [code for code in loop.codes if is_load(code) and 4 <= width(code) < want.loads]
        if narrow:
            found.append(f"loop at {loop.start:#x}: expected loads of {want.loads} bytes, got {narrow}")
        most, cost = LIMITS[kernel.architecture].budget / SHARE, want.cost(loop)
        if kernel.family in HOT and cost > most and kernel.architecture not in want.slow:
            found.append(
                f"loop at {loop.start:#x}: expected at most {most:.0f} instructions per 512 bytes, got {cost:.0f}"
            )
    return [f"{kernel.architecture} {kernel.name}: {fault}" for fault in found]


HEADER = (
    "arch", "kernel", "threads", "registers", "shared", "local", "LDL + STL", "occupancy", "loads, number x bytes",
    "dp4a / mma", "instructions per 512 B", "budget", "kB under way", "needed",
)  # fmt: skip


def row(kernel: Kernel) -> list[str]:
    """Return what the table says of a kernel, as `HEADER` names it."""
    want, limits = kernel.expected, LIMITS[kernel.architecture]
    fill = occupancy(kernel.architecture, kernel.registers, kernel.shared, want.threads)
    dp4a, mma = (sum(n for code, n in kernel.codes.items() if code.startswith(s)) for s in ("IDP", "IMMA"))
    loops = kernel.main_loops()
    costs = [want.cost(loop) for loop in loops]
    return [
        kernel.architecture,
        kernel.name,
        str(want.threads),
        str(kernel.registers),
        str(kernel.shared),
        str(kernel.local),
        str(kernel.spill_instructions),
        f"{100 * fill:.0f} %",
        ", ".join(f"{n}x{size}" for size, n in kernel.loads().items()),
        f"{dp4a} / {mma}",
        " / ".join(f"{cost:.0f}" for cost in costs),
        f"{limits.budget:.0f} ({limits.card})" if costs else "",
        " / ".join(f"{want.under_way(loop) / 1e3:.0f}" for loop in loops if want.blocks),
        f"{limits.needed / 1e3:.0f}" if loops and want.blocks else "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, help="library, object or fatbin (default: the installed engine)")
    parser.add_argument("--all", action="store_true", help=f"every kernel, not only {', '.join(HOT)}")
    args = parser.parse_args()
    try:
        kernels = read(args.file or installed_library())
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"benchmarks.sass: {error}")
    print("| " + " | ".join(HEADER) + " |\n" + "|---" * len(HEADER) + "|")
    for kernel in sorted(kernels, key=lambda k: (k.name, ARCHITECTURES.index(k.architecture))):
        if args.all or kernel.family in HOT:
            print("| " + " | ".join(row(kernel)) + " |")
    wrong = [fault for kernel in kernels for fault in faults(kernel)]
    print("\n" + ("\n".join(wrong) if wrong else f"All {len(kernels)} kernels are as expected."))
    print(json.dumps([dict(zip(HEADER, row(kernel), strict=True)) for kernel in kernels]))


if __name__ == "__main__":
    main()
