"""Black-box tests: a real server process, real sockets. The binary is $NIBBLE_BUILD/nibble."""
import functools
import http.client
import json
import os
import re
import resource
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SLOW = 8 if os.environ.get("NIBBLE_SANITIZER") == "thread" else 1  # generous waits under TSan


def pytest_addoption(parser):
    parser.addoption("--release", action="store_true", help="release build: full-size loads")


def binary():
    return str(Path(os.environ.get("NIBBLE_BUILD", ROOT / "build" / "dev")) / "nibble")


@functools.cache
def plain():
    """The binary gives memory back: no sanitizer's allocator, which keeps what was freed for a while (leaks are
    found by the sanitizer itself at exit)."""
    code = Path(binary()).read_bytes()
    return b"__asan_init" not in code and b"__tsan_init" not in code


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        return self.json["error"]


class Server:
    def __init__(self, *arguments, model=None, env=None, wait=True, limits=None):
        port = [] if "--port" in arguments else ["--port", "0"]
        command = [binary(), "serve"] + ([model] if model else []) + [*port, *arguments]
        if limits:  # by prlimit before the exec: {resource.RLIMIT_NOFILE: 64}
            names = {resource.RLIMIT_NOFILE: "nofile"}
            command = ["prlimit"] + [f"--{names[k]}={v}:{v}" for k, v in limits.items()] + command
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}
        )
        self.lines, self.port = [], None
        self.listening = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        if not self.listening.wait(30 * SLOW):
            self.process.kill()
            raise RuntimeError("the server did not listen:\n" + "".join(self.lines))
        if wait:
            self.wait_ready()

    def _read(self):
        for raw in self.process.stdout:
            line = raw.decode(errors="replace")
            self.lines.append(line)
            found = re.search(r"listening on http://[^:\s]+:(\d+)", line)
            if found:
                self.port = int(found.group(1))
                self.listening.set()

    def wait_ready(self, seconds=60):
        until = time.time() + seconds * SLOW
        while time.time() < until:
            if self.process.poll() is not None:
                raise RuntimeError("the server ended:\n" + "".join(self.lines))
            if self.get("/ready").status == 200:
                return
            time.sleep(0.02)
        raise RuntimeError("not ready:\n" + "".join(self.lines))

    def request(self, method, path, body=None, headers=None, timeout=120):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout * SLOW)
        try:
            if isinstance(body, (dict, list)):
                body = json.dumps(body)
            connection.request(method, path, body, headers or {})
            reply = connection.getresponse()
            return Reply(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read())
        finally:
            connection.close()

    def get(self, path, **more):
        return self.request("GET", path, **more)

    def post(self, path, body, **more):
        return self.request("POST", path, body, **more)

    def chat(self, text, **fields):
        fields.setdefault("messages", [{"role": "user", "content": text}])
        return self.post("/v1/chat/completions", fields)

    def complete(self, prompt, **fields):
        return self.post("/v1/completions", {"prompt": prompt, **fields})

    def stream(self, path, body, headers=None):
        """Events of an SSE reply as dicts; the list ends with "[DONE]"."""
        reply = self.post(path, {**body, "stream": True}, headers=headers)
        if reply.status != 200:
            return reply, None
        assert reply.headers["content-type"].startswith("text/event-stream")
        events = []
        for block in reply.body.decode().split("\n\n"):
            if not block or block.startswith(":"):
                continue
            assert block.startswith("data: "), block
            data = block[len("data: "):]
            events.append(data if data == "[DONE]" else json.loads(data))
        assert events[-1] == "[DONE]"
        return reply, events

    def raw(self, data, timeout=5, close_write=False):
        """Bytes in, bytes out until the server closes or is silent for `timeout`."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout * SLOW) as s:
            s.sendall(data)
            if close_write:
                s.shutdown(socket.SHUT_WR)
            out = b""
            try:
                while chunk := s.recv(65536):
                    out += chunk
            except (TimeoutError, ConnectionResetError):
                pass
            return out

    def metric(self, name):
        text = self.get("/metrics").body.decode()
        found = re.search(rf"^{re.escape(name)}\{{[^}}]*\}} (\S+)$", text, re.M)
        assert found, f"no metric {name}"
        return float(found.group(1))

    def settled(self, seconds=20):
        """Wait until nothing runs or waits; the pages held are then zero."""
        until = time.time() + seconds * SLOW
        while time.time() < until:
            if (self.metric("vllm:num_requests_running") == 0 and self.metric("vllm:num_requests_waiting") == 0
                    and self.metric("vllm:kv_cache_usage_perc") == 0):
                return True
            time.sleep(0.02)
        return False

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def anonymous_kb(self):
        total = 0
        for line in Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Anonymous:"):
                total += int(line.split()[1])
        return total

    def stop(self, sig=signal.SIGTERM, seconds=60):
        if self.process.poll() is None:
            self.process.send_signal(sig)
        code = self.process.wait(seconds * SLOW)
        return code


@pytest.fixture(scope="session")
def server():
    s = Server("--max-seqs", "64")
    yield s
    code = s.stop()
    assert code == 0, f"exit {code}:\n" + "".join(s.lines[-60:])


@pytest.fixture(scope="session")
def exact():
    """fp32 activations and KV: the reference's arithmetic."""
    s = Server("--activations", "exact")
    yield s
    assert s.stop() == 0


@pytest.fixture
def alive(server):
    """After the test the server gives its usual answer, and nothing is held."""
    yield
    reply = server.chat("Hello! Who are you?", temperature=0, max_tokens=8)
    assert reply.status == 200 and reply.json["choices"][0]["message"]["content"]


def text_of(events):
    """Joined text per choice of a chat or completion stream."""
    texts = {}
    for event in events[:-1]:
        for choice in event["choices"]:
            piece = choice["delta"].get("content") if "delta" in choice else choice["text"]
            texts[choice["index"]] = texts.get(choice["index"], "") + (piece or "")
    return texts
