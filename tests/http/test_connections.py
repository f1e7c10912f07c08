"""Connections that end, stall or crowd at the worst moment: noticed in time, and nothing stays behind."""
import http.client
import json
import os
import random
import resource
import signal
import socket
import struct
import time

import pytest

from conftest import SLOW, Server, plain, text_of
from test_concurrent import body_of, open_stream, run_all

HOST = b"Host: x\r\n"
LONG = dict(max_tokens=1900, ignore_eos=True)


def head_of(data, extra=b""):
    return b"POST /v1/completions HTTP/1.1\r\n" + HOST + extra + b"Content-Length: %d\r\n\r\n" % len(data)


def completion(**fields):
    return json.dumps({"prompt": [5, 6, 7], "max_tokens": 1, **fields}).encode()


def connect(server):
    return socket.create_connection(("127.0.0.1", server.port), timeout=60 * SLOW)


def reset(s):
    """Close with RST instead of FIN."""
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


def one_reply(s):
    reply = http.client.HTTPResponse(s)
    reply.begin()
    return reply.status, reply.read()


def back_to(server, descriptors, seconds=5):
    until = time.time() + seconds * SLOW
    while server.descriptors() > descriptors and time.time() < until:
        time.sleep(0.02)
    return server.descriptors() <= descriptors


def ends(process, seconds):
    """The exit status and how long it took."""
    start = time.time()
    return process.wait(seconds * SLOW), time.time() - start


@pytest.fixture
def own():
    """A server of the test's own; it must end well."""
    servers = []
    def start(*arguments, **more):
        servers.append(Server(*arguments, **more))
        return servers[-1]
    yield start
    for s in servers:
        assert s.stop() == 0, "".join(s.lines[-40:])


# ---- many -------------------------------------------------------------------------------------

def test_cancel_of_200_suspended_clients(own):
    """Queued and running alike: all are noticed within 2 s of the last close."""
    s = own("--max-seqs", "8")
    base = s.descriptors()
    sockets = [open_stream(s, body_of(i, **LONG)) for i in range(200)]
    until = time.time() + 30 * SLOW
    while s.metric("vllm:num_requests_waiting") + s.metric("vllm:num_requests_running") < 200 and time.time() < until:
        time.sleep(0.05)
    assert s.metric("vllm:num_requests_waiting") >= 190
    for c in sockets:
        c.close()
    start = time.time()
    assert s.settled(2) and back_to(s, base, 2)
    assert time.time() - start < 2 * SLOW


@pytest.mark.parametrize("n", [128, 129, 256])
def test_simultaneous_connections_do_not_stall(server, n):
    """libmicrohttpd's own loop stalls when exactly 128 connections are ready in one epoll_wait."""
    data = completion()
    sockets = [connect(server) for _ in range(n)]
    try:
        for _ in range(3):
            start = time.time()
            for c in sockets:
                c.sendall(head_of(data) + data)
            for c in sockets:
                status, body = one_reply(c)
                assert status == 200 and json.loads(body)["usage"]["completion_tokens"] == 1
            assert time.time() - start < 10 * SLOW
    finally:
        for c in sockets:
            c.close()


def test_1000_idle_connections_leave_health_fast(own):
    s = own()
    base = s.descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 1200:
        if hard != resource.RLIM_INFINITY and hard < 1200:
            pytest.skip(f"this test needs 1,200 descriptors, the limit is {hard}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (1200, hard))
    sockets = [connect(s) for _ in range(1000)]
    for c in sockets:
        c.sendall(b"GET /live HTTP/1.1\r\n" + HOST + b"\r\n")
    for c in sockets:
        assert one_reply(c)[0] == 200
    times = []
    for _ in range(50):
        start = time.perf_counter()
        assert s.get("/health").status == 200
        times.append(time.perf_counter() - start)
    assert sorted(times)[25] < 0.02 * SLOW
    for c in sockets:
        c.close()
    assert back_to(s, base)


def test_descriptors_run_out_and_come_back(own):
    """64 descriptors, 100 clients: some wait, nobody is harmed, and no processor time is burnt."""
    s = own(limits={resource.RLIMIT_NOFILE: 64})
    sockets = [connect(s) for _ in range(100)]
    time.sleep(0.3)
    ticks = lambda: sum(int(x) for x in open(f"/proc/{s.process.pid}/stat").read().rsplit(")", 1)[1].split()[11:13])
    before = ticks()
    time.sleep(1)
    assert ticks() - before < 0.5 * os.sysconf("SC_CLK_TCK")
    for c in sockets:
        c.close()
    data = completion()
    assert all(s.post("/v1/completions", data).status == 200 for _ in range(5))
    assert s.descriptors() < 30


# ---- one that ends at the worst moment --------------------------------------------------------

@pytest.mark.parametrize("pad", [0, 100_000], ids=["small body", "body over several reads"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "collected"])
def test_fin_in_the_burst_of_a_complete_body_cancels(server, stream, pad):
    assert server.settled()
    base = server.descriptors()
    body = json.dumps(body_of(0, **LONG, stream=stream)).encode() + b" " * pad
    start = time.time()
    sockets = []
    for _ in range(8):
        c = connect(server)
        c.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        c.shutdown(socket.SHUT_WR)
        sockets.append(c)
    assert back_to(server, base, 3), "the half-closed connections are still open"
    assert server.settled(3) and time.time() - start < 6 * SLOW
    for c in sockets:
        c.close()


PHASES = ["connected", "half a head", "head", "half a body", "body", "first token", "after a reply"]


@pytest.mark.parametrize("how", [reset, socket.socket.close], ids=["RST", "FIN"])
@pytest.mark.parametrize("phase", PHASES)
def test_cancel_by_end_in_each_phase(server, phase, how):
    assert server.settled()
    base = server.descriptors()
    for i in range(10):
        c = connect(server)
        data = completion(**LONG, stream=True)
        head = head_of(data)
        if phase == "half a head":
            c.sendall(head[:20])
        elif phase == "head":
            c.sendall(head)
        elif phase == "half a body":
            c.sendall(head + data[:10])
        elif phase in ("body", "first token"):
            c.sendall(head + data)
            if phase == "first token":
                assert b"200 OK" in c.recv(100)
        elif phase == "after a reply":
            c.sendall(head_of(completion()) + completion())
            assert one_reply(c)[0] == 200
        if i % 2:
            time.sleep(0.01)
        how(c)
    assert back_to(server, base) and server.settled(5)


def test_cancel_while_a_large_reply_is_written(server):
    """Echo with log-probabilities: megabytes of JSON, made by a worker that has the exchange to itself."""
    assert server.settled()
    base = server.descriptors()
    n, times = (1500, 16) if plain() else (400, 4)  # over 64 KiB of records: a worker writes it
    data = completion(prompt=[7] * n, echo=True, logprobs=20, max_tokens=4, ignore_eos=True)
    start = time.time()
    with connect(server) as c:
        c.sendall(head_of(data) + data)
        status, whole = one_reply(c)
    took = time.time() - start
    assert status == 200 and len(whole) > 200 * n
    for i in range(times):
        c = connect(server)
        c.sendall(head_of(data) + data)
        time.sleep(took * (0.7 + 0.5 * i / times))
        (reset if i % 2 else socket.socket.close)(c)
    assert back_to(server, base) and server.settled(10)


def test_cancel_of_a_list_that_the_queue_takes_in_part(own):
    """All or nothing: the prompts that were taken end with the refusal of one that was not."""
    s = own("--max-seqs", "2", "--max-queue", "4")
    for _ in range(3):
        for stream in (False, True):
            reply = s.post("/v1/completions", {"prompt": [[5, 6]] * 30, "max_tokens": 500, "ignore_eos": True, "stream": stream})
            assert reply.status == 429 and reply.error["type"] == "rate_limit_error"
        assert s.settled(5)
        assert s.complete([[5, 6]] * 4, max_tokens=2).status == 200


# ---- slow, odd, in a row ----------------------------------------------------------------------

def test_reader_of_one_byte_a_second(server):
    slow = open_stream(server, body_of(0, max_tokens=1500, ignore_eos=True))
    fast = []
    for i in range(3):
        assert len(slow.recv(1)) == 1
        start = time.time()
        assert server.post("/v1/chat/completions", body_of(i, max_tokens=16)).status == 200
        fast.append(time.time() - start)
        time.sleep(1)
    slow.close()
    assert server.settled(5) and max(fast) < 5 * SLOW


def test_expect_100_continue(server):
    data = completion()
    with connect(server) as c:
        for _ in range(2):  # and the connection is kept
            c.sendall(head_of(data, b"Expect: 100-continue\r\n"))
            assert c.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
            c.sendall(data)
            assert one_reply(c)[0] == 200
    with connect(server) as c:  # refused by its head: no 100, and the body is not waited for
        c.sendall(head_of(b"x" * (2 << 20), b"Expect: 100-continue\r\n"))
        assert c.recv(1000).startswith(b"HTTP/1.1 413")


def test_request_pipelined_behind_a_running_stream(server):
    data = completion(stream=True, max_tokens=30, ignore_eos=True)
    with connect(server) as c:
        c.sendall(head_of(data) + data)
        c.recv(1, socket.MSG_PEEK)
        c.sendall(b"GET /live HTTP/1.1\r\n" + HOST + b"\r\n")
        out = b""
        while not out.endswith(b'{"status":"live"}'):
            chunk = c.recv(65536)
            assert chunk, out[-200:]
            out += chunk
        assert out.count(b"HTTP/1.1 200") == 2 and b"data: [DONE]\n\n\r\n0\r\n\r\nHTTP/1.1 200" in out


@pytest.mark.parametrize("head", [b"GET /nothing", b"GET /v1/completions", b"GET /health", b"DELETE /health", b"PATCH /health",
                                  b"OPTIONS /health", b"HEAD /health", b"POST /nothing", b"BREW /health"])
def test_a_refused_body_is_no_second_request(server, head):
    hidden = b"GET /version HTTP/1.1\r\n" + HOST + b"\r\n"
    out = server.raw(head + b" HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(hidden) + hidden, timeout=0.5)
    assert out.count(b"HTTP/1.1 ") == 1 and b'"version"' not in out, out


def test_connection_is_kept_after_an_error_in_a_body(server):
    with connect(server) as c:
        for bad in (b"{", b'{"prompt":5}', b'{"prompt":"a","max_tokens":-1}'):
            c.sendall(head_of(bad) + bad)
            assert one_reply(c)[0] == 400
        c.sendall(head_of(completion()) + completion())
        assert one_reply(c)[0] == 200


def test_body_in_chunks_of_one_byte(server):
    data = completion()
    with connect(server) as c:
        c.sendall(b"POST /v1/completions HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
                  + b"".join(b"1\r\n%c\r\n" % b for b in data) + b"0\r\n\r\n")
        assert one_reply(c)[0] == 200


def test_bodies_of_many_do_not_fill_memory(own):
    """300 clients hold 1 MB of body each: 256 MiB are taken, some get 429, and nobody is left without answer."""
    s = own("--body-ms", "60000")
    base = s.anonymous_kb()
    body = b" " * 1_000_000
    sockets = []
    for _ in range(300):
        c = connect(s)
        c.sendall(head_of(body + b"{}") + body)
        sockets.append(c)
    last, until = -1, time.time() + 30 * SLOW
    while s.anonymous_kb() != last and time.time() < until:  # until everything is read, or dropped
        last = s.anonymous_kb()
        time.sleep(0.7)
    assert s.anonymous_kb() - base < (400_000 if plain() else 900_000)
    for c in sockets:
        c.sendall(b"{}")
    answers = [one_reply(c)[0] for c in sockets]
    assert set(answers) == {400, 429}  # {} has no prompt
    for c in sockets:
        c.close()
    assert s.complete([5], max_tokens=1).status == 200
    if plain():
        assert s.anonymous_kb() - base < 20_000


# ---- the process ------------------------------------------------------------------------------

@pytest.mark.parametrize("state", ["loading", "idle", "kept alive", "half a body", "streaming", "queued", "collected"])
def test_lifecycle_sigterm_in_each_state(state):
    s = Server("--max-seqs", "1", "--drain-ms", "300", model="dummy:qwen2.5-0.5b" if state == "loading" else None,
               wait=state != "loading")
    sockets = []
    if state == "kept alive":
        sockets = [connect(s)]
        sockets[0].sendall(b"GET /live HTTP/1.1\r\n" + HOST + b"\r\n")
        assert one_reply(sockets[0])[0] == 200
    elif state == "half a body":
        sockets = [connect(s)]
        sockets[0].sendall(head_of(b"x" * 100) + b"{")
    elif state in ("streaming", "queued"):
        sockets = [open_stream(s, body_of(0, **LONG))]
        assert sockets[0].recv(10)  # it runs; two prep workers do not keep the order of who comes together
        sockets += [open_stream(s, body_of(0, **LONG)) for _ in range(0 if state == "streaming" else 4)]
    elif state == "collected":
        data = completion(**LONG)
        sockets = [connect(s)]
        sockets[0].sendall(head_of(data) + data)
    time.sleep(0.2)
    s.process.send_signal(signal.SIGTERM)
    tails = []
    if state in ("streaming", "queued", "collected"):
        for c in sockets:
            data = b""
            try:
                while chunk := c.recv(65536):
                    data += chunk
            except ConnectionResetError:
                pass
            tails.append(data)
    code, seconds = ends(s.process, 20)
    assert code == 0 and seconds < 6 * SLOW, "".join(s.lines[-20:])
    if state == "streaming":
        assert tails[0].endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n") and b'"error"' in tails[0]
    elif state == "collected":
        assert b" 503 " in tails[0][:20] or b" 200 " in tails[0][:20]
    elif state == "queued":
        assert all(t.startswith(b"HTTP/1.1 503") for t in tails[1:])


def test_lifecycle_drain_does_not_wait_for_who_does_not_read():
    s = Server("--drain-ms", "300")
    sockets = []
    for _ in range(4):
        c = socket.socket()
        c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        c.connect(("127.0.0.1", s.port))
        data = json.dumps(body_of(0, **LONG, stream=True, logprobs=True, top_logprobs=20)).encode()
        c.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(data) + data)
        sockets.append(c)
    time.sleep(2)  # their buffers are full now
    s.process.send_signal(signal.SIGTERM)
    code, seconds = ends(s.process, 20)
    assert code == 0 and seconds < 8 * SLOW


def test_lifecycle_kill_and_restart_on_the_same_port():
    s = Server()
    streams = [open_stream(s, body_of(i, **LONG)) for i in range(4)]
    for c in streams:
        assert c.recv(10)
    port = s.port
    s.process.kill()
    s.process.wait()
    again = Server("--port", str(port))
    assert again.port == port and again.get("/health").status == 200
    assert again.stop() == 0


# ---- stop strings -----------------------------------------------------------------------------

def test_stop_strings_cut_streams_and_replies_alike(server):
    """The text is the reference text up to the stop string that is complete first; stream or not, include or not."""
    rng = random.Random(11)
    for round_ in range(24):
        base = body_of(2 * round_ + 1, max_tokens=48)
        full = server.post("/v1/chat/completions", base).json["choices"][0]["message"]["content"]
        stops = []
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(full))
            stop = full[at:at + rng.randint(1, 7)]
            stops.append(stop + "\u00e9" if rng.random() < 0.3 else stop)
        include = rng.random() < 0.5
        found = [(full.find(x) + len(x), -len(x)) for x in stops if x in full]
        wanted = full
        if found:
            end, length = min(found)
            wanted = full[:end] if include else full[:end + length]
        body = {**base, "stop": stops, "include_stop_str_in_output": include}
        collected = server.post("/v1/chat/completions", body).json["choices"][0]
        _, events = server.stream("/v1/chat/completions", body)
        reasons = [c["finish_reason"] for e in events[:-1] for c in e["choices"] if c["finish_reason"]]
        assert collected["message"]["content"] == text_of(events)[0] == wanted, (stops, include)
        assert reasons == [collected["finish_reason"]]
        if found:
            assert reasons == ["stop"]
