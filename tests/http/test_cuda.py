"""nibble serve --device cuda. $NIBBLE_CUDA_BUILD holds the binary: the emulated one (build/dev/emulated, no GPU)
or that of preset cuda on a machine with a GPU. The fault shim is the emulator's."""
import json
import os
import socket
import time
from pathlib import Path

import pytest

import conftest
from conftest import SLOW, Server

BUILD = os.environ.get("NIBBLE_CUDA_BUILD")
EMULATED = BUILD is not None and "emulated" in BUILD
pytestmark = pytest.mark.skipif(BUILD is None, reason="NIBBLE_CUDA_BUILD is not set: no CUDA binary to test")
MARGIN = 0.05


@pytest.fixture(autouse=True)
def cuda_binary(monkeypatch):
    monkeypatch.setattr(conftest, "binary", lambda: str(Path(BUILD) / "nibble"))


def start(*arguments, **more):
    return Server("--device", "cuda", *arguments, **more)


def test_greedy_text_is_the_exact_arithmetics():
    """Wherever the exact arithmetic's best token leads by more than 0.05, the GPU takes the same."""
    exact, cuda = Server("--device", "cpu", "--activations", "exact"), start()
    compared = 0
    for prompt in ("Once upon a time", "The sum of 3 and 4 is", "A list of colours:"):
        body = dict(temperature=0, max_tokens=24, ignore_eos=True, logprobs=2, return_token_ids=True)
        wanted = exact.complete(prompt, **body).json["choices"][0]
        found = cuda.complete(prompt, **body).json["choices"][0]
        for i, (a, b) in enumerate(zip(wanted["token_ids"], found["token_ids"])):
            top = sorted(wanted["logprobs"]["top_logprobs"][i].values(), reverse=True)
            if a != b:
                assert top[0] - top[1] <= MARGIN, f"{prompt!r}, token {i}: {b}, want {a}"
                break  # another text from here on
            compared += 1
    assert compared >= 24
    assert exact.stop() == 0 and cuda.stop() == 0


def test_a_step_ahead_writes_the_same_text():
    """--overlap plans a step before the tokens of the last are known: nothing else changes. Greedy, drawn, from a
    history with penalties, by typical_p and by a chain (drawn by the host), of allowed tokens, stopped in flight
    by a string and by the end of text."""
    bodies = [dict(temperature=0, logprobs=2), dict(temperature=1.1, seed=3, n=2), dict(temperature=0.9, seed=4, top_p=0.9, logprobs=0),
              dict(temperature=0.8, seed=5, repetition_penalty=1.3, frequency_penalty=0.4), dict(temperature=0, presence_penalty=1.5),
              dict(temperature=1, seed=6, typical_p=0.7),
              dict(temperature=1, seed=7, mirostat=2, mirostat_tau=3, dry_multiplier=1, dry_allowed_length=0),
              dict(temperature=1.2, seed=8, allowed_token_ids=list(range(300, 340)), logit_bias=[[300, False]]),
              dict(temperature=0, stop=[" "]), dict(temperature=0, min_tokens=2, max_tokens=8)]
    texts = {}
    for overlap in ("off", "on"):
        s = start("--overlap", overlap)
        texts[overlap] = []
        for i, body in enumerate(bodies):
            reply = s.complete([5 + i, 9, 11, 300], **{"max_tokens": 5, "ignore_eos": i < 8, **body})
            assert reply.status == 200, reply.body
            texts[overlap].append(reply.json["choices"])
        assert s.stop() == 0
    for body, off, on in zip(bodies, texts["off"], texts["on"]):
        assert on == off, body
    assert texts["on"][7][0]["text"]


@pytest.mark.parametrize("overlap", ["off", "on"])
def test_streams_beside_each_other_are_the_replies_alone(overlap):
    s = start("--invariant", "--overlap", overlap)
    body = dict(temperature=0, max_tokens=8, ignore_eos=True)
    alone = [s.complete([5 + i, 9, 11], **body).json["choices"][0]["text"] for i in range(4)]
    sockets = []
    for i in range(4):
        data = json.dumps({"prompt": [5 + i, 9, 11], "stream": True, **body}).encode()
        c = socket.create_connection(("127.0.0.1", s.port), timeout=60 * SLOW)
        c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
        sockets.append(c)
    for c, wanted in zip(sockets, alone):
        data = b""
        while chunk := c.recv(65536):
            data += chunk
        text = "".join(json.loads(line[6:])["choices"][0]["text"] for line in data.decode().splitlines()
                       if line.startswith("data: {") and json.loads(line[6:])["choices"])
        assert text == wanted
    assert s.stop() == 0


def test_int8_weights_and_chat():
    s = start("--weights", "int8", "--group", "64")
    reply = s.chat("Hello", max_tokens=8, temperature=0)
    assert reply.status == 200 and reply.json["usage"]["completion_tokens"] <= 8
    assert s.get("/health").status == 200 and s.stop() == 0


def test_int8_keys_and_values():
    s = start("--kv", "int8")
    replies = [s.complete("Once upon a time", max_tokens=20, temperature=0, ignore_eos=True) for _ in range(2)]
    assert [r.status for r in replies] == [200, 200]
    assert replies[0].json["usage"]["completion_tokens"] == 20
    assert s.get("/health").status == 200 and s.stop() == 0


def test_no_device_falls_back_to_the_cpu():
    if not EMULATED:
        pytest.skip("this machine has a device")
    s = Server(env={"HOSTCUDA_DEVICES": "0"})
    assert s.complete("a", max_tokens=1).status == 200
    assert any("using=cpu" in line for line in s.lines)
    assert s.stop() == 0


@pytest.mark.parametrize("devices,says", [("0", "no usable GPU"), ("old", "driver")])
def test_cuda_asked_for_and_absent_is_refused(devices, says):
    if not EMULATED:
        pytest.skip("this machine has a device")
    s = Server("--device", "cuda", env={"HOSTCUDA_DEVICES": devices}, wait=False)
    assert s.process.wait(20 * SLOW) != 0
    time.sleep(0.1)
    assert any(says in line for line in s.lines), s.lines


@pytest.mark.parametrize("calls_from_ready,overlap", [*[(n, "off") for n in (1, 2, 3, 5, 9, 17, 40, 90)],
                                                      *[(n, "on") for n in (2, 6, 11, 40)]])
def test_lost_device(calls_from_ready, overlap):
    """Every live request ends with an error, /health turns 503, the process exits non-zero, nothing hangs."""
    if not EMULATED:
        pytest.skip("the fault shim is the emulator's")
    probe = start("--overlap", overlap, env={"HOSTCUDA_COUNTERS": "1"})
    assert probe.complete([5, 6], max_tokens=1).status == 200
    assert probe.stop() == 0
    calls = [int(line.split("=")[1]) for line in probe.lines if line.startswith("hostcuda_calls=")]
    assert calls, probe.lines
    # a token more than the first request, and its 1-token neighbour, lie behind the probe's whole life
    s = start("--overlap", overlap, env={"HOSTCUDA_FAULT_AT": str(calls[-1] + calls_from_ready)})
    data = json.dumps({"prompt": [5, 6], "max_tokens": 400, "ignore_eos": True, "stream": True}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(data)
    streams = []
    for _ in range(3):
        c = socket.create_connection(("127.0.0.1", s.port), timeout=60 * SLOW)
        c.sendall(head + data)
        streams.append(c)
    replies = []
    for c in streams:
        text = b""
        try:
            while chunk := c.recv(65536):
                text += chunk
        except ConnectionResetError:
            pass
        replies.append(text)
    for text in replies:
        assert b" 503 " in text[:20] or b'"error"' in text, text[-400:]
    assert s.process.wait(30 * SLOW) != 0
    assert any("device_lost" in line for line in s.lines)
