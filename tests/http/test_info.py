"""What the server says of itself, in the shapes of llama-server, vLLM and SGLang; routes that are known and not done."""
import json
import socket
import time

import pytest

from conftest import SLOW, Server

MARK = "xylophone-planted"


def chat(text):
    return [{"role": "user", "content": text}]


def test_version_ping_server_info(server):
    assert server.get("/version").json["version"]
    assert server.get("/ping").status == 200
    info = server.get("/server_info").json
    assert info["version"] == server.get("/version").json["version"]
    assert info["served_model_name"] == "nibble-demo" and info["max_model_len"] == 2048 == info["context_length"]
    assert info["max_running_requests"] == 64 and info["page_size"] == 16 and info["vocab_size"] > 256
    assert info["max_total_num_tokens"] >= 64 * 2048 and info["tp_size"] == info["dp_size"] == 1


def test_props(server):
    props = server.get("/props").json
    assert props["total_slots"] == 64 and props["model_alias"] == "nibble-demo"
    assert props["default_generation_settings"]["n_ctx"] == 2048
    params = props["default_generation_settings"]["params"]
    assert params["seed"] == 4294967295 and params["temperature"] >= 0 and params["n_predict"] != 0
    assert props["modalities"] == {"vision": False, "audio": False} and props["is_sleeping"] is False
    assert "{%" in props["chat_template"] and props["build_info"].startswith("nibble-")
    assert "/" not in props["model_path"]  # no path of this machine
    # The template and its tokens are those in force.
    rendered = server.post("/apply-template", {"messages": chat("hi")}).json["prompt"]
    assert props["bos_token"] == "" or rendered.startswith(props["bos_token"])


def test_tokenizer_info(server):
    """What lm-evaluation-harness asks for its remote tokenizer."""
    info = server.get("/tokenizer_info").json
    assert info["model_max_length"] == 2048 and info["tokenizer_class"]
    assert info["chat_template"] == server.get("/props").json["chat_template"]
    eos = server.post("/tokenize", {"prompt": info["eos_token"], "add_special_tokens": False}).json["tokens"]
    assert len(eos) == 1
    assert server.post("/detokenize", {"tokens": eos}).json["prompt"] == info["eos_token"]


@pytest.mark.parametrize("body", [
    {"messages": chat("Hello! Who are you?")},
    {"messages": [{"role": "system", "content": "Be kind."}, *chat("Hi"), {"role": "assistant", "content": "Well"}],
     "continue_final_message": True, "add_generation_prompt": False},
], ids=["question", "continued"])
def test_render_chat_gives_the_ids_that_a_request_runs_with(server, body):
    got = server.post("/v1/chat/completions/render", {**body, "max_tokens": 2}).json
    assert got["request_id"].startswith("chatcmpl-") and got["model"] == "nibble-demo"
    ran = server.post("/v1/chat/completions", {**body, "max_tokens": 2, "return_token_ids": True}).json
    assert got["token_ids"] == ran["prompt_token_ids"] and len(got["token_ids"]) == ran["usage"]["prompt_tokens"]
    # In, as ids, they give what the chat gives.
    text = server.complete(got["token_ids"], temperature=0, max_tokens=8).json["choices"][0]["text"]
    assert text == server.post("/v1/chat/completions", {**body, "temperature": 0, "max_tokens": 8}).json["choices"][0]["message"]["content"]


def test_render_completions(server):
    got = server.post("/v1/completions/render", {"prompt": ["Once upon a time", "The fox"]}).json
    assert isinstance(got, list) and len(got) == 2 and got[0]["request_id"] != got[1]["request_id"]
    for item, text in zip(got, ["Once upon a time", "The fox"]):
        assert item["token_ids"] == server.post("/tokenize", {"prompt": text}).json["tokens"]
    assert server.post("/v1/completions/render", {"prompt": [5, 6, 7]}).json[0]["token_ids"] == [5, 6, 7]
    assert len(server.post("/v1/completions/render", {"prompt": "x", "stream": True, "n": 3}).json) == 1


@pytest.mark.parametrize("path,body,field", [
    ("/v1/chat/completions/render", {}, "messages"),
    ("/v1/chat/completions/render", {"messages": chat("x"), "temperature": -1}, "temperature"),
    ("/v1/chat/completions/render", {"messages": chat("word " * 3000)}, "messages"),
    ("/v1/completions/render", {"prompt": [1 << 33]}, "prompt"),
    ("/v1/completions/render", {"prompt": "x", "n": 0}, "n"),
], ids=str)
def test_render_refuses_what_a_request_is_refused_for(server, path, body, field):
    reply, ran = server.post(path, body), server.post(path.removesuffix("/render"), body)
    assert reply.status == 400 == ran.status and reply.error == ran.error and field in reply.error["param"]


def test_slots(server):
    slots = server.get("/slots").json
    assert len(slots) == 64 and [s["id"] for s in slots] == list(range(64))
    assert all(s["n_ctx"] == 2048 and s["is_processing"] is False and "params" not in s for s in slots)
    assert server.get("/slots?fail_on_no_slot=1").status == 200


@pytest.fixture
def two():
    s = Server("--max-seqs", "2")
    yield s
    assert s.stop() == 0


def test_busy_slots_and_load(two):
    """Two of two slots run and a third request waits: its text stands nowhere, a free slot is not promised."""
    assert two.get("/load").json == {"server_load": 0}
    body = {"prompt": f"{MARK} " * 4, "max_tokens": 1500, "ignore_eos": True, "temperature": 0.5, "seed": 7, "stream": True,
            "stop": [MARK + "-stop"]}
    raw = json.dumps(body).encode()
    clients = [socket.create_connection(("127.0.0.1", two.port)) for _ in range(3)]
    for client in clients:
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(raw) + raw)
    until = time.time() + 120 * SLOW  # a machine that others load too
    while time.time() < until:
        slots = two.get("/slots").json
        if all(s["is_processing"] and s["next_token"][0]["n_decoded"] > 3 for s in slots):
            break
        time.sleep(0.005)
    else:
        pytest.fail("no two slots were ever seen at work")
    assert len(slots) == 2
    for slot in slots:
        params, state = slot["params"], slot["next_token"][0]
        assert params["temperature"] == 0.5 and params["seed"] == 7 and params["n_predict"] == 1500
        assert state["n_remain"] + state["n_decoded"] == 1500
    busy = two.get("/slots?fail_on_no_slot=1")
    assert busy.status == 503 and busy.error["type"] == "unavailable_error"
    assert two.get("/load").json["server_load"] == 3
    assert two.get("/slots?fail_on_no_slot=0").status == 200
    assert MARK not in two.get("/slots").body.decode() + two.get("/props").body.decode()
    for client in clients:
        client.close()
    assert two.settled()
    assert two.get("/load").json == {"server_load": 0}
    assert not any(s["is_processing"] for s in two.get("/slots").json)
    assert two.get("/slots?fail_on_no_slot=1").status == 200


NOT_DONE = ["/score", "/v1/score", "/rerank", "/reranking", "/v1/rerank", "/v1/reranking", "/v2/rerank"]


@pytest.mark.parametrize("path", NOT_DONE)
def test_known_and_not_done(server, path):
    reply = server.post(path, {"query": "a", "documents": ["b"], "model": "nibble-demo"})
    assert reply.status == 501 and reply.error["type"] == "not_supported_error" and path in reply.error["message"]
    assert server.get(path).status == 405


def test_all_but_health_want_the_key(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("k1\n")
    s = Server("--api-key-file", str(keys))
    open_paths = ["/", "/health", "/ping", "/ready", "/live"]
    shut = ["/openapi.json", "/version", "/load", "/server_info", "/tokenizer_info", "/props", "/slots", "/metrics", "/v1/models", "/models"]
    posts = NOT_DONE + ["/v1/chat/completions/render", "/v1/completions/render", "/tokenize", "/v1/completions"]
    for path in open_paths:
        assert s.get(path).status == 200, path
    for path in shut:
        assert s.get(path).status == 401 and s.get(path, headers={"X-Api-Key": "k2"}).status == 401, path
        assert s.get(path, headers={"X-Api-Key": "k1"}).status == 200, path
    for path in posts:
        assert s.post(path, {}).status == 401, path
        assert s.post(path, {}, headers={"Authorization": "Bearer k1"}).status in (400, 501), path
    assert s.stop() == 0


def test_before_the_model_is_there():
    """Nothing of it waits for the load, and nothing crashes on what is not there yet."""
    s = Server("dummy:llama-3.2-1b", "--weights", "int8", "--ctx", "64", "--max-seqs", "2", wait=False)
    seen = {p: s.get(p).status for p in ("/version", "/load", "/metrics", "/live", "/server_info", "/tokenizer_info", "/props",
                                         "/slots", "/slots?fail_on_no_slot=1", "/v1/models")}
    loading = s.get("/health").status == 503
    s.process.terminate()
    assert s.process.wait(60 * SLOW) == 0
    if not loading:
        pytest.skip("the model was loaded before it could be asked")
    assert all(seen[p] == 200 for p in ("/version", "/load", "/metrics", "/live")), seen
    assert all(seen[p] == 503 for p in seen if p not in ("/version", "/load", "/metrics", "/live")), seen
