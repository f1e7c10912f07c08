"""`nibble bench --url`: against a fake server whose every pause is known and which fails on request, and against
nibble itself. Figures are compared with what the fake server saw from its side of the socket."""
import functools
import itertools
import json
import os
import random
import re
import signal
import socket
import subprocess
import threading
import time
import xml.etree.ElementTree

import pytest

from conftest import SLOW, binary

LATE = 0.03 * SLOW  # s; a loopback and two processes that take turns on two cores


def timed(test):
    """Two processes that take turns on two shared cores: what is late once is tried again, what is wrong stays wrong."""
    @functools.wraps(test)
    def tries(*arguments, **more):
        for left in (2, 1, 0):
            try:
                return test(*arguments, **more)
            except AssertionError:
                if left == 0:
                    raise
                time.sleep(1)
    return tries


class Fake:
    """One thread a connection. `script(i, request)` gives for request i a dict of what to do:
    ttft, gap, tokens, cut (sizes of the pieces that a reply is sent in), fail."""

    def __init__(self, script, models=("fake",)):
        self.script, self.models = script, models
        self.seen = []  # of each generation: dict(at, first, last, body, connection)
        self.n_connections = 0
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def _accept(self):
        while True:
            try:
                s, _ = self.listener.accept()
            except OSError:
                return
            self.n_connections += 1
            threading.Thread(target=self._serve, args=(s, self.n_connections), daemon=True).start()

    def _serve(self, s, connection):
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = b""
        try:
            while True:
                while b"\r\n\r\n" not in data:
                    more = s.recv(65536)
                    if not more:
                        return
                    data += more
                at = time.monotonic()
                head, data = data.split(b"\r\n\r\n", 1)
                length = int((re.search(rb"(?i)content-length: (\d+)", head) or [0, 0])[1])
                while len(data) < length:
                    data += s.recv(65536)
                body, data = data[:length], data[length:]
                if not self._answer(s, head.decode(), body, at, connection):
                    return
        except OSError:
            pass
        finally:
            s.close()

    def _answer(self, s, head, body, at, connection):
        if head.startswith("GET /v1/models"):
            text = json.dumps({"data": [{"id": m} for m in self.models]}).encode()
            s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
            return True
        request = json.loads(body)
        chat = "chat/completions" in head
        prompt = request["messages"][-1]["content"] if chat else request["prompt"]
        n_prompt = 5 + (2 * len(prompt.split(" ")) if isinstance(prompt, str) else len(prompt))
        with self.lock:
            record = {"at": at, "body": request, "connection": connection, "head": head}
            do = {} if request["max_tokens"] == 1 and not request.get("stream") else self.script(len(self.seen), request)
            if do:
                self.seen.append(record)
        fail = do.get("fail")
        if fail == "silent":
            time.sleep(3600)
        if fail == "close":
            return False
        if fail == "garbage":
            s.sendall(b"SSH-2.0-hello\r\n")
            return False
        if isinstance(fail, int):
            text = b'{"error": {"message": "no, %d"}}' % fail
            s.sendall(b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n\r\n" % (fail, len(text)) + text)
            return True
        n = min(do.get("tokens", 4), request["max_tokens"])
        usage = {"prompt_tokens": n_prompt, "completion_tokens": n, "total_tokens": n_prompt + n}
        time.sleep(do.get("ttft", 0))
        if not request.get("stream"):
            text = json.dumps({"choices": [{"text": "x" * n, "message": {"content": "x" * n}, "finish_reason": "length"}],
                               "usage": usage}).encode()
            record["first"] = record["last"] = time.monotonic()
            s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
            return True
        return self._stream(s, do, chat, n, usage, record)

    def _stream(self, s, do, chat, n, usage, record):
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        rng = random.Random(len(self.seen))

        def send(raw):
            if not do.get("cut"):
                s.sendall(raw)
                return
            while raw:
                k = rng.randint(1, do["cut"])
                s.sendall(raw[:k])
                raw = raw[k:]

        def event(data, end=b"\n\n"):
            text = b"data: " + (data if isinstance(data, bytes) else json.dumps(data, ensure_ascii=False).encode()) + end
            middle = len(text) // 2 if do.get("cut") else len(text)  # two chunks: the event spans their border
            out = b""
            for part in (text[:middle], text[middle:]):
                if part:
                    out += b"%x\r\n" % len(part) + part + b"\r\n"
            return out

        def choice(text, reason=None):
            one = {"delta": {"content": text}} if chat else {"text": text}
            return {"choices": [{"index": 0, "finish_reason": reason, **one}]}

        # The role comes at once and is no token.
        send(head + (event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}) if chat else b""))
        times = []
        for k in range(n):
            if k > 0:
                time.sleep(do.get("gap", 0))
            if do.get("fail") == "error_event" and k == 2:
                send(event({"error": {"message": "the device failed"}}) + event(b"[DONE]") + b"0\r\n\r\n")
                return True
            if do.get("fail") == "cut_stream" and k == 2:
                return False
            times.append(time.monotonic())
            send(event(choice("\U0001f98a é%d " % k)))
        record.update(first=times[0], last=times[-1], times=times)
        if do.get("fail") == "no_end":
            send(b"0\r\n\r\n")
            return True
        send(event(choice("", "length")) + event({"choices": [], "usage": usage}) + event(b"[DONE]") + b"0\r\n\r\n")
        return True


def bench(url, *arguments, status=0, env=None):
    done = subprocess.run([binary(), "bench", "--url", url, *map(str, arguments)], capture_output=True, text=True,
                          timeout=120 * SLOW, env={**os.environ, **(env or {})})
    assert done.returncode == status, done.stdout + done.stderr
    return done


def figures(url, *arguments, **more):
    return json.loads(bench(url, "--json", *arguments, **more).stdout)


def percentile(values, percent):
    """numpy.percentile's default."""
    values = sorted(values)
    at = (len(values) - 1) * percent / 100
    i = int(at)
    return values[i] if i + 1 >= len(values) else values[i] + (values[i + 1] - values[i]) * (at - i)


def close(got_ms, want_s, low=0.002):
    assert want_s - low <= got_ms * 1e-3 <= want_s + LATE, (got_ms, want_s)


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
@timed
def test_percentiles_are_those_of_the_server(endpoint):
    """TTFT rises by 20 ms a request and each third gap is long: no two percentiles are alike."""
    script = lambda i, _: {"ttft": 0.04 + 0.02 * i, "gap": 0.05 if i % 3 == 0 else 0.01, "tokens": 6}
    with Fake(script) as fake:
        got = figures(fake.url, "--concurrency", 1, "--requests", 11, "--warmup", 0, "--endpoint", endpoint,
                      "--output-tokens", 6)["stages"][0]
    assert got["completed"] == 11 and got["failed"] == 0
    ttft = [r["first"] - r["at"] for r in fake.seen]
    gaps = [b - a for r in fake.seen for a, b in zip(r["times"], r["times"][1:])]
    whole = [r["last"] - r["at"] for r in fake.seen]
    assert got["inter_token_ms"]["count"] == len(gaps) == 55
    for name, percent in (("p50", 50), ("p90", 90), ("p99", 99)):
        close(got["ttft_ms"][name], percentile(ttft, percent))
        close(got["inter_token_ms"][name], percentile(gaps, percent), low=LATE)
        close(got["e2e_ms"][name], percentile(whole, percent))
    close(got["ttft_ms"]["p50"], 0.14)
    close(got["ttft_ms"]["max"], 0.24)
    assert got["output_tokens"]["mean"] == 6
    assert got["output_tokens_per_s"] == pytest.approx(66 / got["seconds"], rel=1e-6)


@timed
def test_a_ladder_of_concurrencies(tmp_path):
    """Each stage keeps as many requests in flight as it says, and its rate is that of the server's own clock."""
    script = lambda i, _: {"ttft": 0.05, "gap": 0.01, "tokens": 4}
    svg, file = tmp_path / "curve.svg", tmp_path / "out.json"
    with Fake(script) as fake:
        table = bench(fake.url, "--concurrency", "1,2,8", "--requests", 24, "--output-tokens", 4, "--slo",
                      "ttft=1000", "--svg", svg, "--json-file", file).stdout
        got = json.loads(file.read_text())
        assert len(fake.seen) == 3 * 24 + 2  # two to warm up
        assert fake.n_connections <= 1 + 8 + 1  # kept alive, but for the one that tries the address
    assert [s["concurrency"] for s in got["stages"]] == [1, 2, 8]
    for i, stage in enumerate(got["stages"]):
        mine = fake.seen[2 + 24 * i:2 + 24 * (i + 1)]
        borders = sorted([(r["at"], 1) for r in mine] + [(r["last"], -1) for r in mine])
        assert max(itertools.accumulate(step for _, step in borders)) == stage["concurrency"]
        seconds = max(r["last"] for r in mine) - min(r["at"] for r in mine)
        assert stage["requests_per_s"] == pytest.approx(24 / stage["seconds"])
        close(stage["seconds"] * 1e3, seconds)
    assert all(s["goodput_per_s"] == pytest.approx(s["requests_per_s"]) for s in got["stages"])
    root = xml.etree.ElementTree.parse(svg).getroot()
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 7  # one, three and three
    rates = [s["output_tokens_per_s"] for s in got["stages"]]
    for line in lines:
        points = [tuple(map(float, p.split(","))) for p in line.get("points").split()]
        assert len(points) == 3 and points[0][0] < points[1][0] < points[2][0]
    heights = [float(p.split(",")[1]) for p in lines[0].get("points").split()]
    assert [h for _, h in sorted(zip(rates, heights))] == sorted(heights, reverse=True)  # more is further up
    rows = [line.split() for line in table.splitlines()[2:]]
    assert [r[0] for r in rows] == ["1", "2", "8"] and all(r[1] == "24" and r[2] == "0" for r in rows)


@timed
def test_poisson_arrivals_do_not_wait_for_replies():
    """20 a second for 2 s against replies of 0.5 s: ten in flight, and nobody is asked later for it."""
    with Fake(lambda i, _: {"ttft": 0.5, "tokens": 1}) as fake:
        got = figures(fake.url, "--rate", 20, "--requests", 40, "--warmup", 0, "--output-tokens", 2, "--seed", 5)
        first = [r["at"] for r in fake.seen]
        figures(fake.url, "--rate", 20, "--requests", 40, "--warmup", 0, "--output-tokens", 2, "--seed", 5)
        second = [r["at"] for r in fake.seen[40:]]
    stage = got["stages"][0]
    assert stage["completed"] == 40 and stage["rate"] == 20
    assert 1.0 < first[-1] - first[0] < 3.2  # 39 gaps of 50 ms; 4 deviations of their sum are 1.25 s
    close(stage["ttft_ms"]["p50"], 0.5)
    late = sorted(abs((a - first[0]) - (b - second[0])) for a, b in zip(first, second))
    assert late[20] < LATE  # the same seed, the same clock


def test_every_kind_of_failure_is_counted(tmp_path):
    """The prompt says how to fail, so that a request sent again (its connection had served before, and was closed
    without a byte) fails again."""
    kinds = [429, 503, "close", "garbage", "error_event", "cut_stream", "no_end", None]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": json.dumps(kind), "max_tokens": 4}) + "\n" for kind in kinds))
    script = lambda i, request: {"fail": json.loads(request["messages"][0]["content"]), "tokens": 4}
    with Fake(script) as fake:
        got = figures(fake.url, "--concurrency", 4, "--requests", 80, "--warmup", 0, "--prompts", file)["stages"][0]
    assert got["sent"] == 80 and got["completed"] == 10 and got["failed"] == 70
    assert got["errors"] == {"connect": 0, "closed": 20, "timeout": 0, "status": 20, "protocol": 10, "stream": 20}
    assert got["statuses"] == {"429": 10, "503": 10}
    assert got["first_error"] and got["output_tokens"]["mean"] == 4


def test_a_silent_server_times_out():
    with Fake(lambda i, _: {"fail": "silent"} if i % 2 else {"tokens": 2}) as fake:
        got = figures(fake.url, "--concurrency", 2, "--requests", 6, "--warmup", 0, "--request-ms", 400)["stages"][0]
    assert got["errors"]["timeout"] == 3 and got["completed"] == 3


def test_every_split_of_the_bytes(server):
    """Replies in pieces of 1 to 3 bytes, events over chunk borders, two-byte and four-byte characters."""
    with Fake(lambda i, _: {"tokens": 5, "cut": 3}) as fake:
        got = figures(fake.url, "--concurrency", 3, "--requests", 30, "--output-tokens", 5)["stages"][0]
    assert got["completed"] == 30 and got["failed"] == 0
    assert got["output_tokens"]["p50"] == 5 and got["inter_token_ms"]["count"] == 30 * 4


def test_goodput_is_what_meets_every_limit():
    with Fake(lambda i, _: {"ttft": 0.15 if i % 4 == 0 else 0.01, "gap": 0.12 if i % 4 == 1 else 0.005, "tokens": 3}) as fake:
        got = figures(fake.url, "--concurrency", 1, "--requests", 16, "--warmup", 0, "--output-tokens", 3,
                      "--slo", "ttft=100,itl=90", "--slo", "e2e=5000")
    assert got["slo_ms"] == {"ttft": 100, "itl": 90, "e2e": 5000, "tpot": 0}
    assert got["stages"][0]["good"] == 8 and got["stages"][0]["completed"] == 16
    assert got["stages"][0]["goodput_per_s"] == pytest.approx(8 / got["stages"][0]["seconds"])


def test_lengths_are_the_servers(tmp_path):
    """The fake counts two tokens a word and five around; prompts of 105 tokens are therefore 50 words."""
    with Fake(lambda i, _: {"tokens": 1000}) as fake:
        got = figures(fake.url, "--concurrency", 2, "--requests", 40, "--warmup", 0, "--prompt-tokens", 105,
                      "--output-tokens", "uniform:3:6")["stages"][0]
        bodies = [r["body"] for r in fake.seen]
    assert got["prompt_tokens"]["mean"] == 105 == got["prompt_tokens"]["max"]
    assert {b["max_tokens"] for b in bodies} == {3, 4, 5, 6} and got["output_tokens"]["max"] == 6
    texts = [b["messages"][0]["content"] for b in bodies]
    assert len(set(texts)) == 40 and all(len(t.split()) == 50 for t in texts)
    assert all(b["ignore_eos"] and b["model"] == "fake" and b["stream_options"] == {"include_usage": True} for b in bodies)


def test_the_same_seed_asks_the_same():
    def ask(seed):
        with Fake(lambda i, _: {"tokens": 2}) as fake:
            figures(fake.url, "--concurrency", 1, "--requests", 12, "--warmup", 0, "--seed", seed,
                    "--prompt-tokens", "normal:60:20", "--output-tokens", "normal:8:3")
            return [json.dumps(r["body"]) for r in fake.seen]

    assert ask(4) == ask(4) != ask(5)


def test_prompts_from_a_file(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "one \\"quoted\\" \\u00e9", "max_tokens": 3}\n\n{"prompt": [1, 2, 3], "output_tokens": 2}\n')
    with Fake(lambda i, _: {"tokens": 9}) as fake:
        figures(fake.url, "--endpoint", "completions", "--prompts", file, "--requests", 4, "--concurrency", 1,
                "--warmup", 0, "--ignore-eos", "off", "--temperature", 0.5)
        bodies = [r["body"] for r in fake.seen]
        assert [b["prompt"] for b in bodies] == ['one "quoted" é', [1, 2, 3]] * 2
        assert [b["max_tokens"] for b in bodies] == [3, 2, 3, 2]
        assert all("ignore_eos" not in b and b["temperature"] == 0.5 for b in bodies)
        file.write_text('{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}\n')
        figures(fake.url, "--prompts", file, "--requests", 2, "--concurrency", 1, "--warmup", 0)
        assert fake.seen[-1]["body"]["messages"][1] == {"role": "user", "content": "u"}
        for text, want in [('{"prompt": 1', "line 1"), ('\n{"x": 1}', "line 2"), ("[]", "object"), ("", "no prompt"),
                           ('{"prompt": [1]}', "completions")]:
            file.write_text(text)
            assert want in bench(fake.url, "--prompts", file, status=1).stderr


@timed
def test_collected_replies():
    with Fake(lambda i, _: {"ttft": 0.05, "tokens": 7}) as fake:
        got = figures(fake.url, "--stream", "off", "--concurrency", 2, "--requests", 8, "--output-tokens", 7)["stages"][0]
        assert "stream" not in fake.seen[0]["body"]
    assert got["completed"] == 8 and got["output_tokens"]["mean"] == 7 and got["inter_token_ms"]["count"] == 0
    close(got["e2e_ms"]["p50"], 0.05)


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_what_it_has(sig, tmp_path):
    file = tmp_path / "out.json"
    with Fake(lambda i, _: {"ttft": 0.1, "gap": 0.01, "tokens": 5} if i < 6 else {"ttft": 60}) as fake:
        process = subprocess.Popen([binary(), "bench", "--url", fake.url, "--concurrency", "2,4", "--requests", "500",
                                    "--warmup", "0", "--json-file", str(file)], stdout=subprocess.PIPE, text=True)
        until = time.time() + 30 * SLOW
        while len(fake.seen) < 8 and time.time() < until:
            time.sleep(0.02)
        time.sleep(0.1)
        process.send_signal(sig)
        out, _ = process.communicate(timeout=10 * SLOW)
    assert process.returncode == 130
    got = json.loads(file.read_text())
    assert got["stopped"] is True and len(got["stages"]) == 1
    assert got["stages"][0]["completed"] == 6 and got["stages"][0]["cut"] == 2 and got["stages"][0]["failed"] == 0
    assert "2 requests in flight were cut" in out


def test_a_key_is_sent(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# ours\n  secret-1 # the first\nsecret-2\n")
    with Fake(lambda i, _: {"tokens": 2}) as fake:
        figures(fake.url, "--requests", 2, "--concurrency", 1, "--api-key-file", keys)
        assert "Authorization: Bearer secret-1\r\n" in fake.seen[0]["head"] + "\r\n"


@pytest.mark.parametrize("arguments,want", [
    (["--rate", "1", "--concurrency", "1"], "exclude"),
    (["--rate", "fast"], "--rate"),
    (["--prompt-tokens", "0"], "--prompt-tokens"),
    (["--output-tokens", "uniform:9:1"], "--output-tokens"),
    (["--slo", "ttft"], "--slo"),
    (["--slo", "speed=1"], "--slo"),
    (["--prompts", "/nowhere/at/all"], "/nowhere/at/all"),
    (["--api-key-file", "/nowhere/at/all"], "/nowhere/at/all"),
], ids=str)
def test_wrong_arguments_are_named(arguments, want):
    with Fake(lambda i, _: {"tokens": 1}) as fake:
        assert want in bench(fake.url, *arguments, status=1).stderr
        assert not fake.seen


def test_no_server_no_model_no_scheme():
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
    assert "refused" in bench(f"http://127.0.0.1:{port}", status=1).stderr
    assert "https" in bench("https://localhost", status=1).stderr
    with Fake(lambda i, _: {"fail": 500}, models=()) as fake:
        assert "no model" in bench(fake.url, status=1).stderr
        assert "500" in bench(fake.url, "--model", "x", status=1).stderr  # nothing of it works: no table of zeros


def test_nibble_itself(server):
    before = server.metric("vllm:generation_tokens_total")
    for endpoint in ("chat", "completions"):
        got = figures(f"http://127.0.0.1:{server.port}/v1", "--concurrency", "1,4", "--requests", 8, "--prompt-tokens",
                      "uniform:40:80", "--output-tokens", 12, "--endpoint", endpoint)
        assert got["model"] == "nibble-demo"
        for stage in got["stages"]:
            assert stage["completed"] == 8 and stage["failed"] == 0
            assert stage["output_tokens"]["mean"] == 12 == stage["output_tokens"]["max"]
            assert 36 <= stage["prompt_tokens"]["p50"] <= 84
            assert 0 < stage["ttft_ms"]["p50"] <= stage["e2e_ms"]["p50"]
    n = 2 * (16 + 2) * 12 + 2 * 2  # two stages and a warm-up of 2 each; two probes of one token
    assert server.metric("vllm:generation_tokens_total") == before + n
