"""Start, keys, options, signals, drain."""
import json
import os
import signal
import socket
import subprocess
import time

import pytest

from conftest import SLOW, Server, binary
from test_concurrent import body_of, open_stream


def test_lifecycle_sigterm_drains(tmp_path):
    s = Server()
    stream = open_stream(s, body_of(0, max_tokens=60, ignore_eos=True))
    assert stream.recv(20)
    s.process.send_signal(signal.SIGTERM)
    data = b""
    stream.settimeout(30 * SLOW)
    while chunk := stream.recv(65536):
        data += chunk
    assert b"data: [DONE]" in data  # the running stream was served to its end
    assert s.process.wait(20 * SLOW) == 0


def test_int8_keys_and_values():
    """Where the exact arithmetic's best token leads, pages of codes find it too; the prefix cache shares them."""
    exact, s = Server("--activations", "exact"), Server("--kv", "int8")
    compared = 0
    for prompt in ("Once upon a time", "The sum of 3 and 4 is", "A list of colours:"):
        body = dict(temperature=0, max_tokens=40, ignore_eos=True, logprobs=2, return_token_ids=True)
        wanted, found = (x.complete(prompt, **body).json["choices"][0] for x in (exact, s))
        again = s.complete(prompt, **body).json["choices"][0]
        assert again["token_ids"] == found["token_ids"]
        for i, (a, b) in enumerate(zip(wanted["token_ids"], found["token_ids"])):
            top = sorted(wanted["logprobs"]["top_logprobs"][i].values(), reverse=True)
            if a != b:
                assert top[0] - top[1] <= 0.1, f"{prompt!r}, token {i}: {b}, want {a}"
                break  # another text from here on
            compared += 1
    assert compared >= 40
    ids = [5 + i % 300 for i in range(200)]
    first, second = (s.complete(ids, max_tokens=4, temperature=0).json for _ in range(2))
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] >= 176
    assert first["choices"][0]["text"] == second["choices"][0]["text"]
    assert exact.stop() == 0 and s.stop() == 0


def test_lifecycle_second_signal_aborts():
    s = Server()
    stream = open_stream(s, body_of(0, max_tokens=1900, ignore_eos=True))
    assert stream.recv(20)
    s.process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    s.process.send_signal(signal.SIGTERM)
    assert s.process.wait(10 * SLOW) == 1


def test_lifecycle_drain_refuses_new_connections():
    s = Server("--drain-ms", "2000")
    stream = open_stream(s, body_of(0, max_tokens=1900, ignore_eos=True))
    assert stream.recv(20)
    s.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", s.port), timeout=2).close()
    assert s.process.wait(20 * SLOW) == 0


def test_health_is_503_while_loading():
    s = Server(model="dummy:qwen2.5-0.5b", wait=False)
    try:
        seen = [s.get("/health").status]
        assert s.get("/live").status == 200
        if seen[0] == 503:
            assert s.get("/ready").status == 503
            assert s.complete([1, 2, 3]).status == 503
    finally:
        s.process.kill()
        s.process.wait()
    assert seen[0] in (503, 200)


def test_keys(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# clients\nsecret-one   # first\n\nsecret-two\n")
    s = Server("--api-key-file", str(keys))
    try:
        for path in ("/", "/health", "/ready", "/live", "/ping"):
            assert s.get(path).status == 200, path
        for path in ("/v1/models", "/metrics", "/version"):
            assert s.get(path).status == 401, path
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret-one"}, {"X-Api-Key": "secret"},
                        {"Authorization": "Basic secret-one"}, {"Authorization": "Bearer " + "x" * 8000}):
            reply = s.post("/v1/completions", {"prompt": "a"}, headers=headers)
            assert reply.status == 401 and reply.error["type"] == "authentication_error"
        for headers in ({"Authorization": "Bearer secret-one"}, {"X-Api-Key": "secret-two"}):
            assert s.post("/v1/completions", {"prompt": "a", "max_tokens": 1}, headers=headers).status == 200
        text = "The fox told me a secret about the lantern in the old tree by the river. " * 6
        first = {"Authorization": "Bearer secret-one"}
        second = {"Authorization": "Bearer secret-two"}
        ask = lambda h: s.post("/v1/completions", {"prompt": text, "max_tokens": 1}, headers=h).json["usage"]
        ask(first)
        assert ask(first)["prompt_tokens_details"]["cached_tokens"] > 0
        assert ask(second)["prompt_tokens_details"]["cached_tokens"] == 0  # two keys never share a page
    finally:
        assert s.stop() == 0


@pytest.mark.parametrize("arguments,wanted", [
    (["--prot", "1"], "--prot"),
    (["--port", "70000"], "port"),
    (["--port", "x"], "port"),
    (["--weights", "int5"], "weights"),
    (["--group", "17"], "group"),
    (["--device", "cuda"], "cuda"),
    (["/nowhere/model"], "/nowhere/model"),
    (["/"], "config.json"),
    (["/dev/zero"], "/dev/zero"),
    (["dummy:nothing"], "nothing"),
    (["--api-key-file", "/nowhere"], "/nowhere"),
    (["--ctx", "0"], "ctx"),
    (["--ctx", "999999"], "2048"),
])
def test_start_errors_name_the_thing(arguments, wanted):
    done = subprocess.run([binary(), "serve", *arguments], capture_output=True, text=True, timeout=60 * SLOW)
    assert done.returncode not in (0, -6, -11) and wanted in done.stderr + done.stdout


def test_port_busy():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = str(s.getsockname()[1])
        done = subprocess.run([binary(), "serve", "--port", port], capture_output=True, text=True, timeout=60 * SLOW)
    assert done.returncode != 0 and port in done.stderr + done.stdout


def test_option_order_file_environment_flag(tmp_path):
    config = tmp_path / "nibble.conf"
    config.write_text("alias = from-file\nctx = 512\nmax-seqs = 3\n")
    s = Server("--config", str(config), "--max-seqs", "5", env={"NIBBLE_CTX": "256"})
    try:
        model = s.get("/v1/models").json["data"][0]
        assert model["id"] == "from-file" and model["max_model_len"] == 256
    finally:
        assert s.stop() == 0
    config.write_text("nonsense = 1\n")
    done = subprocess.run([binary(), "serve", "--config", str(config)], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "nonsense" in done.stderr and "1" in done.stderr


def test_slow_head_and_slow_body_are_cut():
    s = Server("--head-ms", "1000", "--body-ms", "1000")
    try:
        for first in (b"GET /health HT", b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{"):
            with socket.create_connection(("127.0.0.1", s.port), timeout=10) as c:
                c.sendall(first)
                start, closed = time.time(), False
                while time.time() - start < 6 and not closed:
                    try:
                        c.settimeout(0.3)
                        closed = c.recv(1000) == b""
                    except TimeoutError:
                        try:
                            c.sendall(b" ")
                        except OSError:
                            closed = True
                    except OSError:
                        closed = True
                assert closed, first
    finally:
        assert s.stop() == 0


def test_health_command():
    s = Server()
    url = f"http://127.0.0.1:{s.port}"
    assert subprocess.run([binary(), "health", url], timeout=30).returncode == 0
    assert s.stop() == 0
    assert subprocess.run([binary(), "health", url], timeout=30, capture_output=True).returncode == 1


def test_token_ids_only_folder(tmp_path):
    """A folder without tokenizer files serves token ids; text endpoints say why not."""
    from conftest import ROOT
    source = ROOT / "tests/oracle/models/qwen3"
    for name in ("config.json", "model.safetensors"):
        os.symlink(source / name, tmp_path / name)
    s = Server(model=str(tmp_path))
    try:
        got = s.complete([1, 2, 3], max_tokens=4, temperature=0, return_token_ids=True, ignore_eos=True)
        assert got.status == 200 and len(got.json["choices"][0]["token_ids"]) == 4
        for reply in (s.complete("text"), s.chat("hi"), s.post("/tokenize", {"content": "x"})):
            assert reply.status == 400 and "tokenizer" in reply.error["message"]
    finally:
        assert s.stop() == 0
