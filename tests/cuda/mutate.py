#!/usr/bin/env python3
"""mutate.py [--sample N] [--fresh] [--only RE] [--tests RE] [--list] [--seeds N]: the mutation gate.

In the real kernels (cuda/*.cu, *.cuh) each barrier, wait, commit, arrival, fence and stage or phase
increment is left out, one at a time, and the tests of tests/ops/cuda run under the emulator. A mutant
is caught when a test fails, crashes or does not come to an end. Fails when fewer than 95 % are caught,
or when one survives that tests/cuda/survivors.txt does not explain.

All mutants are in one build: every site becomes `mutant(ID) ? nothing : call`, and the environment says
which ID is out. A first run of every test without a mutant records which sites it reaches; a mutant is
tried only by tests that reach it, quickest first: plain with several seeds, then ThreadSanitizer; on an
sm_90 and, for what only older chips run, an sm_80. Fences between memory proxies have no meaning in the
emulator: they are listed apart. Results are kept in build/mutation and each is reused while the site's
file, what it includes, the emulator and the test that caught it are the same. --sample N: N sites, spread evenly (CI).
"""
import argparse
import concurrent.futures
import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build" / "mutation"
SHARE = 0.95
WRAPPERS = {"device.cuh", "wgmma.cuh", "launch.cuh"}

CALL = re.compile(r"\b(block_sync|named_sync|named_arrive|warp_sync|cp_async_wait|cp_async_commit|mbar_init_fence|mbar_init|"
                  r"mbar_arrive_expect|mbar_arrive|mbar_wait|griddep_wait|wgmma_fence|wgmma_commit|wgmma_wait|"
                  r"async_fence|device_fence)\s*(?:<[^;{}()]*>)?\(")
# What the emulator gives no meaning to: it orders memory as it runs.
UNSEEN = {"async_fence", "mbar_init_fence", "device_fence"}
NAMES = r"(?:stage|phase|slot|parity|put|get)"
STEP = re.compile(r"(?m)^[ \t]*([\w.>\[\]-]*\b%s)\s*(\+\+|\^=|\+=|=(?!=))[^;{}]*;" % NAMES)
STEP_IN_IF = re.compile(r"\(\s*(\+\+)([\w.>\[\]-]*\b%s)\b" % NAMES)

FLAGS = ["-O1", "-g1", "-ftrivial-auto-var-init=pattern", "-std=c++17", "-fno-strict-aliasing", "-ffp-contract=off", "-fno-omit-frame-pointer", "-w",
         "-include", str(OUT / "mutant.h"), f"-I{OUT / 'src'}", f"-I{ROOT / 'tests/hostcuda'}", f"-I{ROOT}"]
MUTANT_H = """#pragma once
extern int mutant_out;              /* the site that is left out; -1: none, reached ones are recorded */
extern unsigned char mutant_reached[8192];
static __attribute__((noinline, no_sanitize_thread)) bool mutant(int id) /* no race of ours */
{
    if (mutant_out < 0)
        mutant_reached[id] = 1;
    return id == mutant_out;
}
"""
MUTANT_CPP = """#include <stdio.h>
#include <stdlib.h>
int mutant_out = getenv("MUTANT") != NULL ? atoi(getenv("MUTANT")) : -1;
unsigned char mutant_reached[8192];
static struct report {
    ~report()
    {
        const char *path = getenv("MUTANT_REACHED");
        FILE *file = mutant_out < 0 && path != NULL ? fopen(path, "w") : NULL;
        for (int i = 0; file != NULL && i < 8192; i++)
            if (mutant_reached[i])
                fprintf(file, "%d\\n", i);
        if (file != NULL)
            fclose(file);
    }
} report;
"""


# ---- sites ---------------------------------------------------------------------------------------

def masked(text):
    """The same length, comments and strings blank, so that offsets hold."""
    blank = lambda m: re.sub(r"[^\n]", " ", m.group())
    return re.sub(r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"", blank, text, flags=re.S)


def call_end(text, start):
    depth = 0
    for at in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if depth == 0:
            return at + 1
    raise ValueError("unbalanced")


def sites_of(name, text):
    """[(start, end, kind)] of what may be left out."""
    seen, found = masked(text), []
    for m in CALL.finditer(seen):
        before = seen[:m.start()].rstrip()
        if before.endswith(("DEVICE void", "void", "define")):
            continue
        found.append((m.start(), call_end(seen, m.end() - 1), m.group(1)))
    for m in STEP.finditer(seen):
        found.append((m.start(1), m.end() - 1, "step"))
    for m in STEP_IN_IF.finditer(seen):
        found.append((m.start(1), m.end(2), "step"))
    return sorted(set(found))


def copy_if_new(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def instrument():
    """Writes the instrumented sources, and beside them the headers and tests as they are now; [site]."""
    sites = []
    for path in [*(ROOT / "cuda").glob("*.h"), *(ROOT / "tests/ops/cuda").iterdir()]:
        copy_if_new(OUT / "src" / path.relative_to(ROOT), path.read_text())
    for old in (OUT / "src/cuda").glob("*.cu*"):
        if not (ROOT / "cuda" / old.name).exists():
            old.unlink()
    for path in sorted((ROOT / "cuda").glob("*.cu*")):
        if path.name in WRAPPERS:
            continue
        text = path.read_text()
        pieces, at, seen_before = [], 0, {}
        for start, end, kind in sites_of(path.name, text):
            source = text[start:end]
            line = text.count("\n", 0, start) + 1
            words = " ".join(source.split())
            n = seen_before[words] = seen_before.get(words, 0) + 1
            site = {"id": len(sites), "file": path.name, "line": line, "kind": kind, "text": words, "nth": n}
            sites.append(site)
            other = f"(void)({source})" if kind == "step" else source
            if source.startswith("++"):
                value = source[2:]
                pieces += [text[at:start], f"(mutant({site['id']}) ? {value} : {source})"]
            else:
                pieces += [text[at:start], f"(mutant({site['id']}) ? (void)0 : {other})"]
            at = end
        pieces.append(text[at:])
        new = f'#line 1 "cuda/{path.name}"\n' + "".join(pieces)
        copy_if_new(OUT / "src" / "cuda" / path.name, new)
    return sites


# ---- build ---------------------------------------------------------------------------------------

def run(command, **more):
    return subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)


def must(command, **more):
    result = run(command, **more)
    if result.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{result.stdout[-4000:]}")
    return result.stdout


def digest(paths):
    h = hashlib.sha256()
    for path in sorted(paths):
        h.update(path.name.encode() + b"\0" + path.read_bytes())
    return h.hexdigest()


def included(path, seen):
    """path and what it includes of this repository, in seen."""
    if path in seen or not path.is_file():
        return
    seen.add(path)
    for name in re.findall(r'(?m)^#include "([^"]+)"', path.read_text()):
        included(ROOT / name, seen)
        included(ROOT / "tests/hostcuda" / name, seen)


def version_of(site, result):
    """Of what a result rests on: the site's file, the emulator, and the test that caught it, or all tests."""
    mine, tests = ROOT / "cuda" / site["file"], ROOT / "tests/ops/cuda"
    caught_by = [tests / f"{result.split()[1]}.cu"] if ":" in result else tests.glob("test_*.cu")
    seen = set()
    emulator = [p for p in (ROOT / "tests/hostcuda").iterdir() if p.suffix in (".cpp", ".h")]
    for path in [mine, *emulator, *caught_by]:
        included(path, seen)
    for path in (ROOT / "cuda").glob("*.cu"): # a header is judged by the kernels it is part of
        kernel = set()
        included(path, kernel)
        if mine in kernel:
            seen |= kernel
    return digest(seen)


def build(jobs):
    """The programs, plain and under ThreadSanitizer: {name: {"plain": path, "tsan": path}}."""
    (OUT / "mutant.h").write_text(MUTANT_H)
    (OUT / "mutant.cpp").write_text(MUTANT_CPP)
    base = OUT / "base"
    must(["cmake", "-G", "Ninja", "-S", ROOT, "-B", base, "-DCMAKE_BUILD_TYPE=Release", "-DWITH_CUDA=OFF",
          "-DBUILD_TESTS=OFF"])
    must(["ninja", "-C", base, "-j", jobs, "nibble_backend", "nibble_format", "nibble_base"])
    common, work = [], []
    emulator_flags = ["-O2", "-g1", "-std=c++17", "-fno-strict-aliasing", "-ffp-contract=off", "-fno-omit-frame-pointer",
                      "-fno-tree-loop-distribute-patterns", f"-I{ROOT / 'tests/hostcuda'}", f"-I{ROOT}"]
    launcher = ["ccache"] if run(["which", "ccache"]).returncode == 0 else []
    for path in sorted((ROOT / "tests/hostcuda").glob("*.cpp")):
        if path.name.startswith(("test_", "planted")):
            continue # the emulator's own tests
        common.append(OUT / f"hostcuda_{path.stem}.o")
        work.append(launcher + ["g++", *emulator_flags, "-c", path, "-o", common[-1]])
    common.append(OUT / "mutant.o")
    work.append(["g++", "-O1", "-c", OUT / "mutant.cpp", "-o", common[-1]])
    programs, links = {}, []
    for mode, sanitizer in (("plain", []), ("tsan", ["-fsanitize=thread"])):
        kernels = []
        for path in sorted((OUT / "src/cuda").glob("*.cu")):
            kernels.append(OUT / f"{path.stem}.{mode}.o")
            work.append(launcher + ["g++", *FLAGS, *sanitizer, "-x", "c++", "-c", path, "-o", kernels[-1]])
        for path in sorted((OUT / "src/tests/ops/cuda").glob("test_*.cu")):
            made = OUT / f"{path.stem}.{mode}.o"
            work.append(launcher + ["g++", *FLAGS, *sanitizer, "-x", "c++", "-c", path, "-o", made])
            program = OUT / f"{path.stem}.{mode}"
            programs.setdefault(path.stem, {})[mode] = program
            archive = OUT / f"kernels.{mode}.a"
            links.append((archive, kernels, ["g++", *sanitizer, "-o", program, made, OUT / "mutant.o",
                                             "-Wl,--start-group", archive, *[c for c in common if c.name != "mutant.o"],
                                             *[base / f"libnibble_{x}.a" for x in ("backend", "format", "base")],
                                             "-Wl,--end-group", "-lcjson", "-lpthread", "-ldl", "-lm"]))
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        list(pool.map(must, work))
    for archive, kernels, command in links:
        must(["ar", "rcs", archive, *kernels])
        must(command)
    return programs


# ---- runs ----------------------------------------------------------------------------------------

class Run:
    """A test program in one mode, on one architecture, over every N-th of its cases."""

    def __init__(self, test, mode, arch, every):
        self.test, self.mode, self.arch, self.every = test, mode, arch, every
        self.seconds, self.status, self.reached = 0.0, "", set()

    def __str__(self):
        return f"{self.test} {self.mode} sm_{self.arch}{f' 1/{self.every}' if self.every > 1 else ''}"

    def command(self, programs):
        command = [str(programs[self.test][self.mode]), "--stop"]
        if self.every > 1:
            command += ["--every", str(self.every)]
        return ["setarch", os.uname().machine, "-R"] + command if self.mode == "tsan" else command


def attempt(programs, r, mutant, seed, limit, reached=None):
    """"ok", "failed" or "timeout", and seconds of processor time, which is what `limit` is of: beside other work a
    run takes longer, which must not look like a caught mutant."""
    environment = dict(os.environ, HOSTCUDA_SEED=str(seed), HOSTCUDA_ARCH=str(r.arch), HOSTCUDA_STEPS="20000",
                       TSAN_OPTIONS="halt_on_error=1:exitcode=66:report_thread_leaks=0", MUTANT=str(mutant))
    if reached:
        environment["MUTANT_REACHED"] = str(reached)
    limit = int(limit) + 1
    process = subprocess.Popen(r.command(programs), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1)))
    asleep = threading.Timer(30 * limit, process.kill)
    asleep.start()
    _, status, used = os.wait4(process.pid, 0)
    asleep.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = used.ru_utime + used.ru_stime
    if process.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return "timeout", seconds
    return ("ok" if process.returncode in (0, 77) else "failed"), seconds


def baseline(programs, r):
    """Without a mutant: time, and which sites are reached."""
    reached = OUT / f"reached.{r.test}.{r.mode}.{r.arch}.{r.every}"
    reached.unlink(missing_ok=True)
    r.status, r.seconds = attempt(programs, r, -1, 1, 900, reached)
    r.reached = set(map(int, reached.read_text().split())) if reached.exists() else set()
    used = "" if r.status == "ok" else "  NOT USED: does not pass without a mutant"
    print(f"  {str(r):36s} {r.seconds:6.1f} s, {len(r.reached):3d} sites{used}", flush=True)
    return r


def race_every():
    """{test: N}: the race suite runs every N-th case (tests/hostcuda/CMakeLists.txt)."""
    words = re.search(r"set\(race_every ([^)]*)\)", (ROOT / "tests/hostcuda/CMakeLists.txt").read_text()).group(1).split()
    return {f"test_{name}": int(n) for name, n in zip(words[::2], words[1::2])}


def baselines(programs, jobs):
    """Usable runs, in the order in which a mutant meets them: samples of a few seconds, what the race suite
    runs under ThreadSanitizer, then every case."""
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        full = list(pool.map(lambda k: baseline(programs, Run(k[0], "plain", k[1], 1)),
                             [(t, a) for t in programs for a in (90, 80)]))
        full = [r for r in full if r.reached]
        every, samples = race_every(), []
        for r in full:
            if r.seconds > 5:
                samples.append(Run(r.test, "plain", r.arch, round(r.seconds / 5 + 0.5)))
            samples.append(Run(r.test, "tsan", r.arch, every.get(r.test, 1)))
        samples = list(pool.map(lambda r: baseline(programs, r), samples))
    runs = [r for r in samples + full if r.status == "ok"]
    return sorted(runs, key=lambda r: (r.mode == "tsan", r.seconds) if r in samples else (2, r.seconds))


def try_site(site, programs, runs, seeds):
    """How it was caught, or "survived" / "not reached"."""
    mine = [r for r in runs if site["id"] in r.reached]
    if not mine:
        return "not reached"
    quick = [r for r in mine if r.mode == "plain"][:1] + [r for r in mine if r.mode == "tsan"][:1]
    plan = [(r, 1) for r in quick] + [(r, 1) for r in mine if r not in quick] + \
        [(r, seed) for seed in range(2, seeds + 1) for r in mine]
    for r, seed in plan:
        status, _ = attempt(programs, r, site["id"], seed, max(30, 8 * r.seconds))
        if status != "ok":
            return f"{status}: {r} seed {seed}"
    return "survived"


def known_survivors():
    """{(file, text, nth): reason} of survivors.txt: `file: text [nth]: reason`."""
    path, known = ROOT / "tests/cuda/survivors.txt", {}
    for number, line in enumerate(path.read_text().split("\n") if path.exists() else [], 1):
        if not line.strip() or line.startswith("#"):
            continue
        m = re.match(r"(\S+): (.*?)(?: \[(\d+)\])?: (.+)$", line)
        if not m:
            sys.exit(f"survivors.txt:{number}: want 'file: text [nth]: reason'")
        known[m.group(1), m.group(2), int(m.group(3) or 1)] = m.group(4)
    return known


def key_of(site):
    return f"{site['file']}: {site['text']} [{site['nth']}]"


def report(sites, results):
    known, files = known_survivors(), {}
    caught_all = total_all = unexplained = 0
    for site in sites:
        result = results.get(key_of(site))
        if result is None:
            continue
        row = files.setdefault(site["file"], [0, 0, 0])
        if site["kind"] in UNSEEN:
            row[2] += 1
            continue
        good = result not in ("survived", "not reached")
        row[0] += good
        row[1] += 1
        caught_all += good
        total_all += 1
        if not good:
            reason = known.get((site["file"], site["text"], site["nth"]))
            unexplained += reason is None
            print(f"  {'known' if reason else 'SURVIVOR':8s} cuda/{site['file']}:{site['line']}: {site['text']}"
                  f" [{site['nth']}] ({result}){': ' + reason if reason else ''}")
    for file, (caught, total, unseen) in files.items():
        print(f"  {file:24s} {caught:3d} of {total:3d} caught"
              f"{f', {unseen} fences that the emulator cannot judge' if unseen else ''}")
    share = caught_all / total_all if total_all else 0
    good = share >= SHARE and unexplained == 0
    print(f"mutants: {caught_all} of {total_all} caught ({100 * share:.1f} %, want {100 * SHARE:.0f} %),"
          f" {unexplained} survivors without a reason: {'ok' if good else 'FAILED'}")
    return 0 if good else 1


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--sample", type=int)
    arguments.add_argument("--fresh", action="store_true")
    arguments.add_argument("--only", default="", help="sites whose file: text matches this expression")
    arguments.add_argument("--tests", default="", help="only test programs that match this expression")
    arguments.add_argument("--list", action="store_true")
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--jobs", type=int, default=2)
    options = arguments.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    sites = instrument()
    if options.list:
        for site in sites:
            print(f"cuda/{site['file']}:{site['line']}: {site['text']} [{site['nth']}]")
        print(f"{len(sites)} sites")
        return 0
    programs = {name: modes for name, modes in build(options.jobs).items() if re.search(options.tests, name)}
    wanted = [s for s in sites if re.search(options.only, key_of(s))]
    if options.sample and options.sample < len(wanted):
        judged = [s for s in wanted if s["kind"] not in UNSEEN]
        wanted = [judged[i * len(judged) // options.sample] for i in range(options.sample)]
    store, results = OUT / "results.json", {}
    saved = json.loads(store.read_text()) if store.exists() and not options.fresh else {}
    for site in sites:
        result, version = saved.get(key_of(site), ("", ""))
        if result and version == version_of(site, result):
            results[key_of(site)] = result
    todo = [s for s in wanted if key_of(s) not in results and s["kind"] not in UNSEEN]
    for site in wanted:
        if site["kind"] in UNSEEN:
            results[key_of(site)] = "cannot be seen"
    if todo:
        print(f"{len(todo)} mutants to try; runs without one:", flush=True)
        runs = baselines(programs, options.jobs)
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            futures = {pool.submit(try_site, s, programs, runs, options.seeds): s for s in todo}
            for n, future in enumerate(concurrent.futures.as_completed(futures), 1):
                site = futures[future]
                result = results[key_of(site)] = future.result()
                saved[key_of(site)] = (result, version_of(site, result))
                store.write_text(json.dumps(saved, indent=1))
                print(f"  {n:3d}/{len(todo)} {key_of(site)}: {future.result()}", flush=True)
    return report(wanted, results)


if __name__ == "__main__":
    sys.exit(main())
