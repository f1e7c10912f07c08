#!/usr/bin/env python3
"""Random clients for a while, good, bad and gone; then descriptors, memory and pages must be back at their base.

    tests/http/soak.py [--seconds 60] [--clients 24] [--seed 1]      the binary is $NIBBLE_BUILD/nibble
"""
import argparse
import collections
import json
import random
import socket
import struct
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from conftest import SLOW, Server, plain  # noqa: E402

GROWTH_KB = 8192  # of anonymous memory between the end of the warm-up and the end


def post(path, body):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(data)) + data


def chat(rng, **more):
    words = " ".join(rng.choice(["fox", "bear", "lantern", "river", "map", "song"]) for _ in range(rng.randint(1, 40)))
    return {"messages": [{"role": "user", "content": f"Tell me about {words}."}], "max_tokens": rng.randint(1, 48),
            "seed": rng.randint(0, 5), **more}


def read_reply(s):
    """Status line and everything up to the end of a reply with Connection: close semantics or a known length."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = s.recv(65536)
        if not chunk:
            return data
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    lower = head.lower()
    if b"content-length: " in lower:
        wanted = int(lower.split(b"content-length: ")[1].split(b"\r\n")[0])
        done = lambda: len(body) >= wanted
    else:
        done = lambda: body.endswith(b"0\r\n\r\n")
    while not done():
        chunk = s.recv(65536)
        if not chunk:
            break
        body += chunk
    return head + b"\r\n\r\n" + body


def act(server, rng):
    """One client's visit: (what it was, whether the server did what it should)."""
    kind = rng.choices(["stream", "collected", "gone", "bad", "big", "list", "large reply", "idle", "half", "slow"],
                       [30, 15, 25, 12, 4, 4, 2, 4, 4, 1])[0]
    with socket.create_connection(("127.0.0.1", server.port), timeout=120 * SLOW) as s:
        if kind == "stream":
            s.sendall(post("/v1/chat/completions", chat(rng, stream=True)))
            reply = read_reply(s)
            ok = b"data: [DONE]" in reply or b" 429 " in reply[:20]
        elif kind == "collected":
            for _ in range(rng.randint(1, 3)):
                s.sendall(post("/v1/chat/completions", chat(rng, n=rng.randint(1, 3), stop=["the"] if rng.random() < 0.3 else None)))
                ok = read_reply(s)[9:12] in (b"200", b"429")
        elif kind == "gone":
            s.sendall(post("/v1/chat/completions", chat(rng, stream=rng.random() < 0.7, ignore_eos=True) | {"max_tokens": 900}))
            if rng.random() < 0.5:
                s.recv(rng.randint(1, 2000))
            else:
                time.sleep(rng.random() * 0.2)
            if rng.random() < 0.5:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            ok = True
        elif kind == "bad":
            data = rng.choice([post("/v1/completions", b'{"prompt"'), post("/v1/completions", {"prompt": 5}), b"\x16\x03\x01\r\n\r\n",
                               post("/v1/chat/completions", {"messages": [], "n": 10**9}), b"GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n",
                               post("/nothing", b"x" * 1000), b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n"])
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            reply = s.recv(65536)
            ok = reply == b"" or reply[9:10] == b"4"
        elif kind == "big":
            s.sendall(post("/v1/completions", {"prompt": [rng.randint(3, 300)] * 2000, "max_tokens": 2}))
            ok = read_reply(s)[9:12] in (b"200", b"429")
        elif kind == "list":
            s.sendall(post("/v1/completions", {"prompt": [[5, 6, i] for i in range(rng.randint(1, 60))], "max_tokens": 3}))
            ok = read_reply(s)[9:12] in (b"200", b"429")
        elif kind == "large reply":
            s.sendall(post("/v1/completions", {"prompt": [7] * 400, "echo": True, "logprobs": 20, "max_tokens": 2}))
            ok = read_reply(s)[9:12] in (b"200", b"429")
        elif kind == "idle":
            s.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            ok = read_reply(s)[9:12] == b"200"
            time.sleep(rng.random())
        elif kind == "half":
            data = post("/v1/chat/completions", chat(rng))
            s.sendall(data[:rng.randint(1, len(data) - 1)])
            time.sleep(rng.random() * 0.1)
            ok = True
        else:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            s.sendall(post("/v1/chat/completions", chat(rng, stream=True, ignore_eos=True) | {"max_tokens": 400}))
            until = time.time() + 2
            while time.time() < until:
                s.recv(1)
                time.sleep(0.1)
            ok = True
    return kind, ok


def run(server, seconds, n_clients, seed, counts, failures):
    until = time.time() + seconds

    def client(i):
        rng = random.Random(seed * 1000 + i)
        while time.time() < until:
            try:
                kind, ok = act(server, rng)
            except ConnectionResetError:  # a refused body is cut: the peer may see the cut before the answer
                kind, ok = "reset", True
            except Exception as error:
                kind, ok = repr(error), False
            counts[kind] += 1
            if not ok:
                failures.append(kind)

    threads = [threading.Thread(target=client, args=(i,)) for i in range(n_clients)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    settled = server.settled(30)
    time.sleep(1)
    return settled, server.descriptors(), server.anonymous_kb()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    o = parser.parse_args()
    server = Server("--max-seqs", "16", "--max-queue", "64")
    counts, failures = collections.Counter(), []
    descriptors = server.descriptors()
    warm = run(server, o.seconds / 3, o.clients, o.seed, counts, failures)
    end = run(server, o.seconds * 2 / 3, o.clients, o.seed + 1, counts, failures)
    code = server.stop()
    checks = [
        ("every visit ended as it should", not failures),
        ("nothing runs, waits or holds a page", warm[0] and end[0]),
        ("descriptors are back", warm[1] <= descriptors + 1 and end[1] <= descriptors + 1),
        ("memory is back", end[2] <= warm[2] + GROWTH_KB or not plain()),
        ("exit status 0", code == 0),
    ]
    print(f"soak: {sum(counts.values())} visits {dict(counts)}")
    print(f"soak: descriptors {descriptors} -> {warm[1]} -> {end[1]}; anonymous {warm[2]} kB -> {end[2]} kB; exit {code}")
    for text, ok in checks:
        print(f"soak: {'ok    ' if ok else 'FAILED'} {text}")
    if failures or code != 0:
        print(collections.Counter(failures), "".join(server.lines[-20:]), sep="\n")
    return 0 if all(ok for _, ok in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
