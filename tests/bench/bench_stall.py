#!/usr/bin/env python3
"""Does a long prompt stall running streams? 8 clients stream; a prompt of the full context comes in.

The figure: 99th percentile of the streams' token gaps while the prompt is computed, over the median gap
of a quiet run just before, at the same tokens of the streams; limit 3. One thread reads all sockets, so
that the client adds little of its own; events that arrive in one read are one gap. Median of --rounds
rounds. The quiet run's own 99th percentile is printed beside it: it tells how much of the tail is the
machine's.
Usage: tests/bench/bench_stall.py [--rounds 5] [MODEL [serve options...]]
"""
import argparse
import ctypes
import json
import os
import platform
import re
import selectors
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / "build/release/nibble"
LIMIT = 3.0
# The demo model's special tokens: they have no text and travel with the next token, two steps in one gap.
WITHOUT_TEXT = {"0": -100, "1": -100, "2": -100}


def short_slice():
    """A thread that wakes beside busy compute threads waits for the scheduler's tick, 4 ms, which is several
    steps of a small model: that is the client's wait, not the server's. Linux 6.12 lets a thread ask for short
    slices and so be woken at once (sched_setattr, struct of linux/sched/types.h); older ones ignore it."""
    attributes = struct.pack("<IIQiIQQQ", 48, 0, 0, 0, 0, 100_000, 0, 0)
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    if platform.machine() == "x86_64" and syscall(314, 0, attributes, 0) != 0:
        print(f"note: the client keeps long time slices ({os.strerror(ctypes.get_errno())})")


def start(arguments):
    process = subprocess.Popen([BINARY, "serve", "--port", "0", *arguments], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    port = None
    for line in process.stdout:
        if found := re.search(r"listening on http://[^:\s]+:(\d+)", line):
            port = int(found.group(1))
        if line.startswith("ready"):
            return process, port
    sys.exit("the server did not start")


def send(port, body):
    s = socket.create_connection(("127.0.0.1", port), timeout=120)
    data = json.dumps(body).encode()
    s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
    s.setblocking(False)
    return s


def gaps(port, tokens, ctx, intruder):
    """[(n, s)]: before its n-th event a stream waited s seconds; 8 streams. With an intruder only what fell
    between its arrival and its end, and how long that was."""
    selector, last, count, found, ended = selectors.DefaultSelector(), {}, {}, [], 0
    streams = [send(port, {"prompt": [5 + i] * 20, "temperature": 0, "max_tokens": tokens, "ignore_eos": True,
                           "stream": True, "return_token_ids": True, "logit_bias": WITHOUT_TEXT}) for i in range(8)]
    for s in streams:
        selector.register(s, selectors.EVENT_READ)
    other, arrived, finished = None, None, None
    while ended < len(streams):
        for key, _ in selector.select(10):
            s, now = key.fileobj, time.perf_counter()
            data = s.recv(1 << 16)
            if s is other:
                finished = now
                selector.unregister(s)
                continue
            if b"data: {" in data:
                count[s] = count.get(s, 0) + 1
                if s in last:
                    found.append((now, count[s], now - last[s]))
                last[s] = now
            if not data or b"[DONE]" in data:
                selector.unregister(s)
                ended += 1
        if intruder and other is None and len(found) > 8 * 20:
            other, arrived = send(port, {"prompt": [intruder] * (ctx - 2), "max_tokens": 1}), time.perf_counter()
            selector.register(other, selectors.EVENT_READ)
    for s in streams:
        s.close()
    until = finished or time.perf_counter()
    return [(n, gap) for now, n, gap in found if not intruder or arrived <= now <= until], until - (arrived or until)


def percentile(values, share):
    return sorted(values)[int(len(values) * share)]


def measure(name, arguments, tokens, ctx, rounds):
    process, port = start(arguments)
    ratios, floors = [], []
    try:
        gaps(port, tokens, ctx, None)
        for i in range(rounds):
            alone = gaps(port, tokens, ctx, None)[0]
            loud, took = gaps(port, tokens, ctx, 100 + i)
            first, last = min(n for n, _ in loud), max(n for n, _ in loud)
            alone = [gap for n, gap in alone if first <= n <= last] # a step grows with the context
            quiet = statistics.median(alone)
            floors.append(percentile(alone, 0.99) / quiet)
            p99 = percentile([gap for _, gap in loud], 0.99)
            ratios.append(p99 / quiet)
            print(f"{name}: quiet median {quiet * 1e3:8.3f} ms, p99 beside a {ctx - 2}-token prompt {p99 * 1e3:8.3f} ms "
                  f"(computed in {took * 1e3:.0f} ms, {len(loud)} gaps), ratio {ratios[-1]:.2f}, quiet p99 {floors[-1]:.2f}", flush=True)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
    ratio, floor = statistics.median(ratios), statistics.median(floors)
    good = ratio <= LIMIT
    print(f"{name}: ratio {ratio:.2f}  limit <= {LIMIT:g}  {'ok' if good else 'OVER'} (without the prompt: {floor:.2f})")
    return good


def main():
    short_slice()
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    arguments, rest = parser.parse_known_args()
    if rest:
        good = measure(rest[0], rest, 100, 2048, arguments.rounds)
    else:
        good = measure("dummy:qwen2.5-0.5b int4", ["dummy:qwen2.5-0.5b", "--weights", "int4", "--ctx", "2048"], 100, 2048,
                       arguments.rounds)
        good = measure("demo model", ["demo:"], 1500, 2048, arguments.rounds) and good
    print("0 failed" if good else "1 failed")
    return not good


if __name__ == "__main__":
    sys.exit(main())
