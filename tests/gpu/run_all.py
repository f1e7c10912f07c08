#!/usr/bin/env python3
"""run_all.py [STEP...]: what tests/gpu/run.sh does. Standard library only.

A step is a function that fills RESULTS and calls check(). All of it has DEADLINE_S; a step that would
start too late is named and counted as skipped. NIBBLE_TRY_DEVICE=cpu: a rehearsal of the steps that
drive nibble, without a GPU.
"""
import concurrent.futures
import glob
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 470
STARTED = time.monotonic()
DEVICE = os.environ.get("NIBBLE_TRY_DEVICE", "cuda")
OUT = Path(os.environ.get("OUT", ROOT / "build/gpu-out"))
RESULTS = {}
COUNTS = {"passed": 0, "failed": 0, "skipped": 0}
MARGIN = 0.05  # between the two likeliest tokens: above it greedy text must agree
CTX = 2048


def left():
    return DEADLINE_S - (time.monotonic() - STARTED)


def check(good, what):
    COUNTS["passed" if good else "failed"] += 1
    if not good:
        print(f"FAILED  {what}", flush=True)
    return good


def skip(what):
    COUNTS["skipped"] += 1
    print(f"SKIPPED {what}", flush=True)


def run(command, limit, **environment):
    """(status, output); status 124: took too long."""
    limit = max(1, min(limit, left()))
    try:
        done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=limit, env=dict(os.environ, **environment), errors="replace")
        return done.returncode, done.stdout
    except subprocess.TimeoutExpired as e:
        text = e.stdout or b""
        return 124, (text.decode(errors="replace") if isinstance(text, bytes) else text) + f"\n(over {limit:.0f} s)"


def library_path():
    """Where cuBLAS may lie: the toolkit, PyTorch's packages."""
    places = ["/usr/local/cuda/lib64"]
    for site in sys.path:
        places += glob.glob(os.path.join(site, "nvidia/*/lib"))
    return os.pathsep.join([p for p in places if os.path.isdir(p)] + [os.environ.get("LD_LIBRARY_PATH", "")])


# ---- kernels ---------------------------------------------------------------------------------------

def count_line(text):
    found = re.findall(r"(\d+) passed, (\d+) failed", text)
    return tuple(map(int, found[-1])) if found else (0, 0)


def step_tests(pack):
    rows = {}
    for program in sorted((pack / "bin").glob("test_*")):
        started = time.monotonic()
        status, text = run([program, "--full"], 60, LD_LIBRARY_PATH=library_path())
        passed, failed = count_line(text)
        seconds = time.monotonic() - started
        rows[program.name] = {"status": status, "passed": passed, "failed": failed, "seconds": round(seconds, 2)}
        print(f"  {program.name:28s} {passed:5d} passed {failed:4d} failed {seconds:6.1f} s", flush=True)
        if not check(status == 0 and failed == 0 and passed > 0, f"{program.name}: exit {status}"):
            print(text[-3000:])
    RESULTS["tests"] = rows


def step_sanitizer(pack):
    tool = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if tool is None:
        return skip("compute-sanitizer is not here")

    def one(job):
        program, check_name = job
        extra = ["--kernel-launch-count", "400"] if check_name == "racecheck" else []
        return job, run([tool, "--tool", check_name, "--error-exitcode", "99", *extra, program], 100)
    jobs = [(p, t) for t in ("memcheck", "synccheck", "racecheck") for p in sorted((pack / "bin").glob("test_*"))]
    rows = {}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for (program, name), (status, text) in pool.map(one, jobs):
            rows[f"{program.name} {name}"] = status
            if status == 124:
                skip(f"{name} {program.name}: out of time")
            elif "not supported" in text and status != 0:
                skip(f"{name} {program.name}: this device is not supported")
            elif not check(status == 0, f"{name} {program.name}: exit {status}"):
                print("\n".join(line for line in text.split("\n") if line.startswith("====="))[:3000])
    RESULTS["sanitizer"] = rows
    print(f"  {sum(s == 0 for s in rows.values())} of {len(rows)} clean")


def step_bench(pack):
    path = OUT / "bench.jsonl"
    path.unlink(missing_ok=True)
    for name in ("bench_read", "bench_gemm", "bench_attend"):
        status, text = run([pack / "bin" / name], 150, BENCH_JSON=str(path), LD_LIBRARY_PATH=library_path())
        (OUT / f"{name}.txt").write_text(text)
        if not check(status == 0, f"{name}: exit {status}"):
            print(text[-2000:])
    RESULTS["bench"] = [json.loads(line) for line in path.read_text().split("\n") if line] if path.exists() else []
    path.unlink(missing_ok=True)


# ---- nibble ----------------------------------------------------------------------------------------

class Server:
    """nibble serve on a free port, for a with statement."""

    def __init__(self, pack, *arguments, limit=120):
        self.process = subprocess.Popen([str(pack / "bin/nibble"), "serve", *arguments, "--port", "0"],
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                                        env=dict(os.environ, LD_LIBRARY_PATH=library_path()))
        self.log, self.port = [], None
        threading.Thread(target=self.read, daemon=True).start()
        until = time.monotonic() + min(limit, max(1, left()))
        while time.monotonic() < until and self.process.poll() is None:
            if self.port and self.ready():
                return
            time.sleep(0.02)
        self.process.kill()
        raise RuntimeError("the server did not start:\n" + "".join(self.log[-20:]))

    def read(self):
        for line in self.process.stdout:
            self.log.append(line)
            found = re.search(r"listening on http://[^:\s]+:(\d+)", line)
            if found:
                self.port = int(found.group(1))

    def ready(self):
        try:
            return self.ask("GET", "/ready")[0] == 200
        except OSError:
            return False

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=max(1, left()))
        connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, text

    def complete(self, **body):
        status, text = self.ask("POST", "/v1/completions", body)
        if status != 200:
            raise RuntimeError(f"HTTP {status}: {text[:300]}")
        return json.loads(text)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            check(self.process.wait(timeout=20) == 0, "nibble serve ends with 0 after SIGTERM")
        except subprocess.TimeoutExpired:
            self.process.kill()
            check(False, "nibble serve ends within 20 s of SIGTERM")


PROMPTS = ["Once upon a time", "Hello! Who are you?", "The lantern", "A fox and a hen", "In the old house by the sea",
           "Tell me about the moon.", "She opened the door and", "There were three", "The king said", "1 2 3 4",
           "Every morning the baker", "The letter was"]


def greedy(server, prompt, n=64):
    """[(token, logprob, {token: logprob})]"""
    answer = server.complete(prompt=prompt, max_tokens=n, temperature=0, logprobs=2)
    found = answer["choices"][0]["logprobs"]
    return list(zip(found["tokens"], found["token_logprobs"], found["top_logprobs"]))


def compare(reference, mine):
    """(tokens compared, None or what differs): up to the first disagreement inside the margin."""
    for n, ((wanted, _, top), (found, _, _)) in enumerate(zip(reference, mine)):
        if wanted != found:
            ranked = sorted(top.values(), reverse=True)
            margin = ranked[0] - ranked[1] if len(ranked) > 1 else 99
            return (n, None) if margin <= MARGIN else (n, f"token {n}: {found!r}, wanted {wanted!r}, margin {margin:.3f}")
    return min(len(reference), len(mine)), None


def step_demo(pack):
    """Greedy text of the demo model against the CPU's exact arithmetic."""
    rows = {}
    with Server(pack, "--device", "cpu", "--activations", "exact") as server:
        reference = {p: greedy(server, p) for p in PROMPTS}
    for options in ([], ["--graphs", "off"], ["--overlap", "on"], ["--kv", "bf16"], ["--kv", "int8"]):
        with Server(pack, "--device", DEVICE, *options) as server:
            if DEVICE == "cuda":
                check(not any("using=cpu" in line for line in server.log), "nibble serve runs on the GPU")
            total = 0
            for prompt in PROMPTS:
                n, wrong = compare(reference[prompt], greedy(server, prompt))
                total += n
                check(wrong is None, f"greedy {' '.join(options)} {prompt!r}: {wrong}")
            rows[" ".join(options) or "plain"] = total
            print(f"  greedy text {' '.join(options):14s} {total} tokens agree with the CPU's exact arithmetic")
    RESULTS["demo"] = rows


def step_repeat(pack):
    """The same run gives the same bits; with --invariant also in a crowd."""
    runs = []
    for _ in range(2):
        with Server(pack, "--device", DEVICE) as server:
            runs.append([greedy(server, p) for p in PROMPTS[:6]])
    check(runs[0] == runs[1], "two runs give the same bits")
    with Server(pack, "--device", DEVICE, "--invariant") as server:
        alone = [greedy(server, p) for p in PROMPTS]
        with concurrent.futures.ThreadPoolExecutor(len(PROMPTS)) as pool:
            crowd = list(pool.map(lambda p: greedy(server, p), PROMPTS))
        same = sum(a == c for a, c in zip(alone, crowd))
        check(same == len(PROMPTS), f"--invariant: {same} of {len(PROMPTS)} alike alone and in a crowd")
    print(f"  two runs {'bit-equal' if runs[0] == runs[1] else 'DIFFER'}; --invariant alone and in a crowd:"
          f" {same} of {len(PROMPTS)} bit-equal")
    RESULTS["repeat"] = {"same": runs[0] == runs[1], "invariant": same}


MODEL = os.environ.get("NIBBLE_TRY_MODEL", "dummy:llama-3.1-8b")


def step_model(pack):
    rows = {}
    for weights in ("int4", "int8"):
        batches = "1,2,4,8,16,32,64,128,256" if weights == "int4" else "1,16"
        status, text = run([pack / "bin/nibble", "bench", MODEL, "--weights", weights, "--device", DEVICE, "--batch",
                            batches, "--chunk", "128,512,2048", "--rounds", "3", "--json"], 120,
                           LD_LIBRARY_PATH=library_path())
        at = text.find("{")
        if not check(status == 0 and at >= 0, f"nibble bench {MODEL} {weights}: exit {status}"):
            print(text[-1500:])
            continue
        rows[weights] = json.loads(text[at:text.rindex("}") + 1])
    RESULTS["model"] = rows


def load_case(server, n_clients, seconds, n_prompt=128, n_out=64):
    """Output tokens a second and times to the first token of n_clients that ask without a pause."""
    stop, lock = time.monotonic() + seconds, threading.Lock()
    tokens, firsts, errors = [0], [], [0]

    def client(number):
        turn = 0
        while time.monotonic() < stop:
            turn += 1
            prompt = [(7 * number + 3 * turn + i * i) % 2000 + 5 for i in range(n_prompt)]
            try:
                connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
                began = time.monotonic()
                connection.request("POST", "/v1/completions", json.dumps(
                    {"prompt": prompt, "max_tokens": n_out, "temperature": 0, "stream": True, "ignore_eos": True}),
                    {"Content-Type": "application/json"})
                answer, first, n = connection.getresponse(), None, 0
                while True:
                    piece = answer.read1(65536)
                    if not piece:
                        break
                    first = first or time.monotonic() - began
                    n += piece.count(b'"text"')
                    if time.monotonic() >= stop:
                        break
                connection.close()
                with lock:
                    tokens[0] += n
                    if first:
                        firsts.append(first)
                    errors[0] += answer.status != 200
            except OSError:
                with lock:
                    errors[0] += 1
    threads = [threading.Thread(target=client, args=(i,)) for i in range(n_clients)]
    began = time.monotonic()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    took = time.monotonic() - began
    firsts.sort()
    return {"clients": n_clients, "tokens_per_s": round(tokens[0] / took, 1), "errors": errors[0],
            "first_p50_ms": round(1e3 * firsts[len(firsts) // 2], 1) if firsts else None,
            "first_p99_ms": round(1e3 * firsts[len(firsts) * 99 // 100], 1) if firsts else None}


def step_load(pack):
    rows = []
    with Server(pack, MODEL, "--weights", "int4", "--device", DEVICE, "--max-seqs", "256", "--ctx", "1024") as server:
        for n in (1, 4, 16, 64, 256):
            rows.append(load_case(server, n, 6))
            print("  {clients:4d} clients {tokens_per_s:9.1f} token/s, first token p50 {first_p50_ms} ms,"
                  " p99 {first_p99_ms} ms, {errors} errors".format(**rows[-1]), flush=True)
            check(rows[-1]["errors"] == 0, f"load with {n} clients: {rows[-1]['errors']} errors")
    RESULTS["load"] = rows


OVERLAP_MODELS = os.environ.get("NIBBLE_TRY_OVERLAP_MODELS", "dummy:qwen2.5-0.5b,dummy:llama-3.1-8b").split(",")
OVERLAP_CLIENTS = (1, 16, 64)


def step_overlap(pack):
    """--overlap on against off, each client count in turn on both: what --overlap auto should be hangs on these."""
    rows = []
    for model in OVERLAP_MODELS:
        options = (model, "--weights", "int4", "--device", DEVICE, "--max-seqs", "64", "--ctx", "1024", "--memory", "40%")
        if left() < 25:
            skip(f"overlap {model}: {left():.0f} s left")
            continue
        with Server(pack, *options, "--overlap", "off") as off, Server(pack, *options, "--overlap", "on") as on:
            for n in OVERLAP_CLIENTS:
                row = {"model": model, "clients": n}
                for name, server in (("off", off), ("on", on)):
                    load_case(server, n, 0.5)  # recordings, caches
                    case = load_case(server, n, 2.5, n_prompt=32, n_out=128)
                    row[name] = case["tokens_per_s"]
                    row[name + "_first_p50_ms"] = case["first_p50_ms"]
                    check(case["errors"] == 0, f"overlap {name} with {n} clients: {case['errors']} errors")
                row["ratio"] = round(row["on"] / row["off"], 3) if row["off"] else None
                rows.append(row)
                print("  {model:22s} {clients:3d} clients {off:9.1f} token/s, ahead {on:9.1f}, ratio {ratio};"
                      " first token p50 {off_first_p50_ms} and {on_first_p50_ms} ms".format(**row), flush=True)
    RESULTS["overlap"] = rows


TORCH = r"""
import json, torch
pool, out = [], []
def time_us(f, n=24):
    f(0); torch.cuda.synchronize()
    g = torch.cuda.CUDAGraph()
    s = torch.cuda.Stream(); s.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(s):
        f(0)
    torch.cuda.current_stream().wait_stream(s)
    with torch.cuda.graph(g):
        for i in range(n): f(i)
    times = []
    for _ in range(7):
        a, b = torch.cuda.Event(True), torch.cuda.Event(True)
        a.record(); g.replay(); b.record(); b.synchronize(); times.append(a.elapsed_time(b) * 1e3 / n)
    return sorted(times)[3]
for name, n_out, n_in in (("o", 4096, 4096), ("gate_up", 28672, 4096), ("down", 4096, 14336)):
    sets = max(2, (256 << 20) // (n_out * n_in * 2))
    ws = [torch.randn(n_out, n_in, device="cuda", dtype=torch.bfloat16) for _ in range(min(sets, 8))]
    q = []
    try:
        for _ in range(min(8, max(2, (256 << 20) // (n_out * n_in // 2)))):
            u8 = torch.randint(0, 256, (n_out, n_in // 2), device="cuda", dtype=torch.uint8)
            q.append((torch.ops.aten._convert_weight_to_int4pack(u8, 8),
                      torch.rand(n_in // 128, n_out, 2, device="cuda", dtype=torch.bfloat16)))
    except Exception as e:
        print("int4:", e)
    for rows in (1, 8, 16, 64, 256, 1024):
        x = torch.randn(rows, n_in, device="cuda", dtype=torch.bfloat16)
        r = {"shape": name, "rows": rows, "bf16_us": time_us(lambda i: x @ ws[i % len(ws)].t())}
        if q:
            try: r["int4_us"] = time_us(lambda i: torch.ops.aten._weight_int4pack_mm(x, q[i % len(q)][0], 128, q[i % len(q)][1]))
            except Exception as e: print("int4:", e)
        out.append(r)
print("JSON" + json.dumps(out))
"""


def step_torch(pack):
    del pack
    status, text = run([sys.executable, "-c", TORCH], 90)
    found = re.search(r"^JSON(.*)$", text, re.M)
    if status != 0 or not found:
        return skip(f"PyTorch: {text.strip().split(chr(10))[-1][:120]}")
    RESULTS["torch"] = json.loads(found.group(1))
    COUNTS["passed"] += 1


# ---- the screen ------------------------------------------------------------------------------------

def show_gemm():
    rows = [r for r in RESULTS.get("bench", []) if r["bench"] == "gemm" and r["bits"] == 4]
    if not rows:
        return
    torch_us = {(r["shape"], r["rows"]): r.get("int4_us") for r in RESULTS.get("torch", [])}
    print(f"\nint4 products, the fastest kernel: {'kernel':10s} {'us':>9s} {'GB/s':>7s} {'of read':>7s} {'TFLOP/s':>8s}"
          f" {'x cuBLAS':>8s} {'x torch':>8s}")
    for shape in ("o", "gate_up", "down", "square"):
        for n in (1, 8, 16, 32, 64, 256, 1024, 4096):
            mine = [r for r in rows if r["shape"] == shape and r["rows"] == n]
            if mine:
                r = min(mine, key=lambda r: r["us"])
                rival = torch_us.get((shape, n))
                against = f"{rival / r['us']:8.2f}" if rival else "       -"
                print(f"  {shape:10s} {n:5d} rows {'':14s} {r['kernel']:10s} {r['us']:9.2f} {r['gbps']:7.0f}"
                      f" {100 * r['read_share']:6.0f}% {r['tflops']:8.1f} {r['x_cublas']:8.2f} {against}")


def show():
    limits = [r["gbps"] for r in RESULTS.get("bench", []) if r["bench"] == "read_limit"]
    if limits:
        print(f"\nstreaming read limit {max(limits):.0f} GB/s")
    show_gemm()
    for r in RESULTS.get("bench", []):
        if r["bench"] == "attend_decode":
            print(f"  decode attention {r['seqs']:4d} x {r['ctx']:6d} {r['us']:9.2f} us {r['gbps']:7.0f} GB/s"
                  f" {100 * r['read_share']:4.0f}%")
        elif r["bench"] == "attend_prefill":
            print(f"  prefill attention {r['seqs']:3d} x {r['rows']:6d} {r['us']:9.2f} us {r['tflops']:7.1f} TFLOP/s")
    for weights, found in RESULTS.get("model", {}).items():
        for case in found.get("cases", []):
            print(f"  {MODEL} {weights} {case.get('kind')} {case.get('batch', case.get('rows', ''))}:"
                  f" {case.get('tokens_per_s', 0):.1f} token/s")


STEPS = {"tests": (step_tests, 5), "demo": (step_demo, 10), "repeat": (step_repeat, 10), "bench": (step_bench, 20),
         "model": (step_model, 30), "load": (step_load, 45), "overlap": (step_overlap, 40), "torch": (step_torch, 20), "sanitizer": (step_sanitizer, 20)}


def describe():
    status, text = run(["nvidia-smi", "--query-gpu=name,driver_version,clocks.sm,clocks.mem,memory.total",
                        "--format=csv,noheader"], 10) if shutil.which("nvidia-smi") else (1, "")
    commit = (ROOT / "build/gpu-pack/commit")
    RESULTS["machine"] = {"gpu": text.strip() if status == 0 else "none", "commit": commit.read_text().split()[0],
                          "built": commit.read_text().strip(), "date": time.strftime("%Y-%m-%d %H:%M:%S")}
    print(RESULTS["machine"])


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("NIBBLE_KERNELS", str(OUT / "kernels.txt")) # measured once, and comes back
    folder = tempfile.TemporaryDirectory()
    pack = Path(folder.name)
    with tarfile.open(ROOT / "build/gpu-pack/pack.tar.xz") as archive:
        archive.extractall(pack)
    describe()
    for name in sys.argv[1:] or STEPS:
        step, least = STEPS[name]
        if left() < least:
            skip(f"{name}: {left():.0f} s left")
            continue
        print(f"==== {name} ({left():.0f} s left)", flush=True)
        try:
            step(pack)
        except (RuntimeError, OSError, KeyError, ValueError, TypeError) as error:
            check(False, f"{name}: {error!r}")
        RESULTS["counts"] = COUNTS
        (OUT / "gpu.json").write_text(json.dumps(RESULTS, indent=1))
    show()
    print(f"\n{time.monotonic() - STARTED:.0f} s")
    print("{passed} passed, {failed} failed, {skipped} skipped".format(**COUNTS))
    return 1 if COUNTS["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
