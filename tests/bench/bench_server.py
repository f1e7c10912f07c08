#!/usr/bin/env python3
"""Start-up, idle cost, memory and request rate of the release server on the demo model.

One line per case: figure, limit, ok or OVER. Needs build/release/nibble; wrk for the rates.
Usage: tests/bench/bench_server.py [--seconds 3]
"""
import argparse
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / "build/release/nibble"
failures = 0


def report(name, value, unit, limit=None, below=True):
    global failures
    verdict = ""
    if limit is not None:
        good = value <= limit if below else value >= limit
        failures += not good
        verdict = f"  limit {'<=' if below else '>='} {limit:g}  {'ok' if good else 'OVER'}"
    print(f"{name:44s} {value:12.3f} {unit:6s}{verdict}", flush=True)


def start():
    began = time.perf_counter()
    process = subprocess.Popen([BINARY, "serve", "--port", "0", "--max-seqs", "64"], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    port = None
    for line in process.stdout:
        found = re.search(r"listening on http://[^:\s]+:(\d+)", line)
        if found:
            port = int(found.group(1))
            break
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/health")
        if connection.getresponse().status == 200:
            return process, port, time.perf_counter() - began
        time.sleep(0.002)


def cpu_ticks(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def anonymous_mb(pid):
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Anonymous:\s+(\d+)", text, re.M).group(1)) / 1024


def wrk(port, path, connections, seconds, script=None):
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", f"http://127.0.0.1:{port}{path}"]
    if script:
        command[1:1] = ["-s", script]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text).group(1))
    p50 = re.search(r"50%\s+(\S+)", text).group(1)
    p99 = re.search(r"99%\s+(\S+)", text).group(1)
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    n = (sum(map(int, errors.groups())) if errors else 0) + (int(bad.group(1)) if bad else 0)
    return rate, p50, p99, n


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--seconds", type=int, default=3)
    seconds = arguments.parse_args().seconds
    starts = []
    for _ in range(5):
        process, port, took = start()
        starts.append(took)
        process.send_signal(signal.SIGTERM)
        process.wait()
    report("start to a good /health (median of 5)", sorted(starts)[2], "s", 0.3)
    process, port, _ = start()
    time.sleep(0.5)
    before = cpu_ticks(process.pid)
    time.sleep(3)
    report("idle CPU in 3 s", (cpu_ticks(process.pid) - before) / os.sysconf("SC_CLK_TCK"), "s", 0.0)
    report("anonymous resident memory, idle", anonymous_mb(process.pid), "MB", 60)
    if shutil.which("wrk") is None:
        print("SKIPPED: wrk is not installed")
    else:
        body = json.dumps({"prompt": "Once", "max_tokens": 1, "temperature": 0})
        script = ROOT / "build/wrk_completion.lua"
        script.write_text(f"wrk.method = 'POST'\nwrk.body = [[{body}]]\n"
                          "wrk.headers['Content-Type'] = 'application/json'\n")
        for path, lua in (("/health", None), ("/v1/completions", str(script))):
            for connections in (1, 16, 128, 256):
                rate, p50, p99, errors = wrk(port, path, connections, seconds, lua)
                report(f"wrk {path} {connections} connections", rate, "req/s", 1, below=False)
                report(f"    errors (p50 {p50}, p99 {p99})", errors, "", 0)
    time.sleep(0.5)
    report("anonymous resident memory, after load", anonymous_mb(process.pid), "MB")
    process.send_signal(signal.SIGTERM)
    report("exit status after SIGTERM", process.wait(), "", 0)
    print(f"{'0 failed' if not failures else str(failures) + ' failed'}")
    return failures != 0


if __name__ == "__main__":
    sys.exit(main())
