"""Bad HTTP, bad JSON, bad fields: the exact status, the field named, and the server unharmed."""
import json
import socket
import time

import pytest

pytestmark = pytest.mark.usefixtures("alive")

HOST = b"Host: x\r\n"
OK_BODY = b'{"prompt":"a","max_tokens":1}'


def post_head(extra=b"", length=None, path=b"/v1/completions"):
    n = len(OK_BODY) if length is None else length
    return b"POST " + path + b" HTTP/1.1\r\n" + HOST + extra + b"Content-Length: %d\r\n\r\n" % n


HTTP = [
    ("no Host", b"GET /health HTTP/1.1\r\n\r\n", 400),
    ("two Hosts", b"GET /health HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
    ("two different lengths", b"POST /tokenize HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
    ("negative length", b"POST /tokenize HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n", 400),
    ("signed length", b"POST /tokenize HTTP/1.1\r\n" + HOST + b"Content-Length: +2\r\n\r\n{}", 400),
    ("length list", b"POST /tokenize HTTP/1.1\r\n" + HOST + b"Content-Length: 2,2\r\n\r\n{}", 400),
    ("length and chunked", b"POST /tokenize HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 400),
    ("unknown transfer encoding", b"POST /tokenize HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    ("xchunked", b"POST /tokenize HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    ("content encoding", post_head(b"Content-Encoding: gzip\r\n") + OK_BODY, 400),
    ("percent NUL in the path", b"GET /health%00x HTTP/1.1\r\n" + HOST + b"\r\n", 404),
    ("percent slash", b"GET /v1%2fmodels HTTP/1.1\r\n" + HOST + b"\r\n", 404),
    ("unknown path", b"GET /nothing HTTP/1.1\r\n" + HOST + b"\r\n", 404),
    ("unknown method", b"BREW /health HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    ("lower-case method", b"get /health HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    ("POST where GET", b"POST /health HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n", 405),
    ("GET where POST", b"GET /v1/completions HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    ("DELETE", b"DELETE /v1/models HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    ("HTTP/3.7", b"GET /health HTTP/3.7\r\n" + HOST + b"\r\n", 505),
    ("body over the limit", post_head(length=2 << 20), 413),
    ("absurd length", post_head(length=10**17), 413),
]


@pytest.mark.parametrize("name,data,status", HTTP, ids=[h[0] for h in HTTP])
def test_http(server, name, data, status):
    reply = server.raw(data, timeout=2, close_write=name.startswith("negative"))
    assert reply.startswith(b"HTTP/1.1 %d" % status), reply[:200]


def test_nul_in_a_header_is_refused_or_cut(server):
    """libmicrohttpd 0.9.75 cuts a value at NUL before anybody can see it; 1.x answers 400."""
    reply = server.raw(b"GET /health HTTP/1.1\r\n" + HOST + b"X-Request-Id: a\x00b\r\n\r\n", timeout=2)
    assert reply.startswith(b"HTTP/1.1 400") or b"X-Request-Id: a\r\n" in reply


def test_chunked_upload_over_the_limit_is_answered(server):
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    data = b"POST /tokenize HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 24 + b"0\r\n\r\n"
    assert server.raw(data, timeout=3).startswith(b"HTTP/1.1 413")


def test_pipelined_requests_are_all_answered(server):
    reply = server.raw((b"GET /live HTTP/1.1\r\n" + HOST + b"\r\n") * 50, timeout=2)
    assert reply.count(b"HTTP/1.1 200") == 50


def test_half_closing_get_is_answered(server):
    reply = server.raw(b"GET /live HTTP/1.1\r\n" + HOST + b"\r\n", timeout=3, close_write=True)
    assert reply.startswith(b"HTTP/1.1 200")


def test_short_body_and_fin_frees_the_socket(server):
    before = server.descriptors()
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", server.port)) as s:
            s.sendall(post_head(length=100) + b'{"prompt"')
    until = time.time() + 5
    while server.descriptors() > before + 2 and time.time() < until:
        time.sleep(0.05)
    assert server.descriptors() <= before + 2


deep = lambda n: "[" * n + "]" * n
JSON = [
    ("empty body", "", None),
    ("not JSON", "hello", None),
    ("an array", "[]", None),
    ("a number", "5", None),
    ("trailing junk", '{"prompt":"a"} x', None),
    ("two documents", '{"prompt":"a"}{}', None),
    ("trailing comma", '{"prompt":"a",}', None),
    ("leading zero", '{"prompt":"a","max_tokens":007}', None),
    ("dot without digits", '{"prompt":"a","temperature":1.}', None),
    ("raw control byte", '{"prompt":"a\nb"}', None),
    ("unicode NUL", '{"prompt":"a\\u0000"}', None),
    ("lone surrogate", '{"prompt":"\\ud800"}', None),
    ("BOM", "\ufeff{}", None),
    ("NaN", '{"prompt":"a","temperature":NaN}', None),
    ("Infinity", '{"prompt":"a","temperature":Infinity}', None),
    ("1e400", '{"prompt":"a","temperature":1e400}', None),
    ("65 deep", '{"prompt":"a","x":' + deep(65) + "}", None),
    ("a million deep", deep(400_000), None),
    ("same key twice", '{"prompt":"a","prompt":"b"}', None),
]


@pytest.mark.parametrize("name,body,field", JSON, ids=[j[0] for j in JSON])
def test_json(server, name, body, field):
    reply = server.post("/v1/completions", body.encode())
    assert reply.status == 400, reply.body[:200]
    assert set(reply.error) >= {"message", "type", "param", "code"}
    assert reply.error["type"] == "invalid_request_error" and reply.error["code"] == 400


@pytest.mark.parametrize("body", [b'{"prompt":"\xff\xfe"}', b'{"prompt":"\xc0\xaf"}', b'{"prompt":"\xed\xa0\x80"}',
                                  '{"prompt":"a"}'.encode("utf-16")])
def test_bytes_that_are_not_utf8(server, body):
    assert server.post("/v1/completions", body).status == 400


M = {"messages": [{"role": "user", "content": "hi"}]}
P = {"prompt": "hi", "max_tokens": 1}
COMPLETION_FIELDS = [
    ("max_tokens", [-1, 2**31, 1.5, "5", True, [1]]),
    ("temperature", [-1, "1", True, 1e9, [0]]),
    ("top_p", [-1, 2, "1", 1.0001]),
    ("top_k", [-2, 1e12, 1.5, "3"]),
    ("min_p", [-0.1, 1.1, "0"]),
    ("typical_p", [-0.1, 1.1]),
    ("repetition_penalty", [0, -1, 1e9]),
    ("presence_penalty", [-1e9, 1e9, "1"]),
    ("frequency_penalty", [-1e9, 1e9]),
    ("n", [0, -1, 1e9, 1.5, "2"]),
    ("best_of", [0, -1, 1e9, 129, "2"]),
    ("seed", ["1", 1.5]),
    ("logprobs", [-1, 1e6, "1"]),
    ("min_tokens", [-1, 2, 1.5]),
    ("stop", [5, {"a": 1}]),
    ("stop_token_ids", [5, "1"]),
    ("logit_bias", ["x", 5, True]),
    ("allowed_token_ids", [[], 5, "1", {}]),
    ("bad_words", ["x", 5, {}]),
    ("truncate_prompt_tokens", [0, -2, 2048, 1e9, 1.5, "5"]),
    ("samplers", [5, {}, "q", "kk"]),
    ("mirostat", [-1, 3, 1.5, "2"]),
    ("dry_multiplier", [-1, 1e9, "1"]),
    ("dry_base", [0, 0.99, 1e9]),
    ("dry_allowed_length", [-1, 1e10]),
    ("dry_penalty_last_n", [-2, 1e10]),
    ("dry_sequence_breakers", ["x", 5, ["x"] * 17]),
    ("xtc_probability", [-0.1, 1.1]),
    ("xtc_threshold", [-0.1, 1.1]),
    ("dynatemp_range", [-1, 1e9]),
    ("dynatemp_exponent", [-1, 1e9]),
    ("top_n_sigma", [-2, 1e9]),
    ("min_keep", [-1, 1e10, 1.5]),
    ("repeat_last_n", [-2, 1e10]),
    ("adaptive_target", [0.5, 0]),
    ("post_sampling_probs", [True]),
    ("n_indent", [1]),
    ("n_cache_reuse", [1]),
    ("request_id", ["", "a b", "x" * 129, "\u00e9", 5]),
    ("response_fields", ["usage", 5, ["a"] * 65]),
    ("t_max_predict_ms", [-2, 1e10, 1.5]),
    ("return_progress", ["yes", 1]),
    ("timings_per_token", ["yes", 1]),
    ("return_tokens_as_token_ids", ["yes", 1]),
    ("spaces_between_special_tokens", ["yes", 1]),
    ("cache_prompt", ["yes", 1]),
    ("stream", ["yes", 1]),
    ("echo", ["yes", 1]),
    ("ignore_eos", ["yes", 1]),
    ("stream_options", [{"include_usage": True}, "x"]),
    ("priority", ["x", 1.5]),
    ("cache_salt", [5]),
    ("suffix", ["x"]),
    ("response_format", ["json", 1, []]),
    ("grammar", ["root ::= x", "x ::= \"a\"", "root ::= root \"a\"", "root ::= (", 1]),
    ("guided_json", [[], {"type": "thing"}, {"$ref": "#/nowhere"}, "{", 5]),
    ("guided_regex", ["(", "a{3,1}", "(?=a)", "a\\1", "(" * 60000, 1]),
    ("guided_choice", [[], "a", {}]),
    ("structured_outputs", [{}, "x", [1]]),
    ("prompt_logprobs", [-1, 21, 1e6, 1.5, "1"]),
    ("top_logprobs", [1]),
    ("chat_template", ["x"]),
    ("model", [5]),
]


@pytest.mark.parametrize("field,value", [(f, v) for f, vs in COMPLETION_FIELDS for v in vs], ids=lambda x: str(x)[:24])
def test_completion_fields(server, field, value):
    reply = server.post("/v1/completions", {**P, field: value})
    assert reply.status == 400, reply.body[:300]
    assert reply.error["param"] == field and field in reply.error["message"]


ELEMENTS = [
    ({"stop": [""]}, "stop[0]"),
    ({"stop": ["a", 5]}, "stop[1]"),
    ({"stop": ["x"] * 100_000}, "stop"),
    ({"stop": ["x" * 1_000]  + ["y" * 100_000]}, "stop[1]"),
    ({"stop_token_ids": [4096]}, "stop_token_ids[0]"),
    ({"stop_token_ids": [1, -1]}, "stop_token_ids[1]"),
    ({"stop_token_ids": [2**32 + 5]}, "stop_token_ids[0]"),
    ({"logit_bias": {"4096": 1}}, "logit_bias"),
    ({"logit_bias": {"-1": 1}}, "logit_bias"),
    ({"logit_bias": {"abc": 1}}, "logit_bias"),
    ({"logit_bias": {"5": 1e9}}, "logit_bias.5"),
    ({"logit_bias": {"5": "x"}}, "logit_bias.5"),
    ({"logit_bias": [1]}, "logit_bias[0]"),
    ({"logit_bias": [[1, 2, 3]]}, "logit_bias[0]"),
    ({"logit_bias": [[4096, 1]]}, "logit_bias[0][0]"),
    ({"logit_bias": [[5, 1], [2**32 + 5, 1]]}, "logit_bias[1][0]"),
    ({"logit_bias": [["x", "y"]]}, "logit_bias[0][1]"),
    ({"logit_bias": [[5, True]]}, "logit_bias[0][1]"),
    ({"logit_bias": [["", 1]]}, "logit_bias[0][0]"),
    ({"logit_bias": {"5": True}}, "logit_bias.5"),
    ({"logit_bias": [[5, 1]] * 16385}, "logit_bias"),
    ({"allowed_token_ids": [5, 4096]}, "allowed_token_ids[1]"),
    ({"allowed_token_ids": [2**32 + 5]}, "allowed_token_ids[0]"),
    ({"bad_words": ["x", ""]}, "bad_words[1]"),
    ({"bad_words": ["x" * 257]}, "bad_words[0]"),
    ({"bad_words": ["x"] * 1025}, "bad_words"),
    ({"samplers": ["top_k", "top_q"]}, "samplers[1]"),
    ({"samplers": ["top_k", "top_k"]}, "samplers[1]"),
    ({"dry_sequence_breakers": ["x", ""]}, "dry_sequence_breakers[1]"),
    ({"dry_sequence_breakers": ["x" * 65]}, "dry_sequence_breakers[0]"),
    ({"response_fields": ["a", ""]}, "response_fields[1]"),
    ({"best_of": 3, "stream": True}, "best_of"),
    ({"n": 3, "best_of": 2}, "best_of"),
    ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
    ({"response_fields": ["usage"], "stream": True}, "response_fields"),
    ({"n": 128, "prompt": ["a"] * 9}, "n"),
    ({"prompt": []}, "prompt"),
    ({"prompt": 5}, "prompt"),
    ({"prompt": {}}, "prompt"),
    ({"prompt": [1, 2, 4096]}, "prompt[2]"),
    ({"prompt": [1, -2]}, "prompt[1]"),
    ({"prompt": [1, 2**32 + 5]}, "prompt[1]"),
    ({"prompt": [[1], "a"]}, "prompt[1]"),
    ({"prompt": ["a", [1]]}, "prompt[1]"),
    ({"prompt": [[1], []]}, "prompt[1]"),
    ({"prompt": [[1, 5000]]}, "prompt[0][1]"),
    ({"prompt": [True]}, "prompt[0]"),
    ({"prompt": ["a"] * 2000}, "prompt"),
    ({"prompt": "", "add_special_tokens": False}, "prompt"),
]


@pytest.mark.parametrize("fields,param", ELEMENTS, ids=lambda x: str(x)[:40])
def test_completion_elements(server, fields, param):
    reply = server.post("/v1/completions", {**P, **fields})
    assert reply.status == 400, reply.body[:300]
    assert reply.error["param"] == param and param in reply.error["message"]


MESSAGES = [
    ([], "messages"),
    ("hi", "messages"),
    ([5], "messages[0]"),
    ([{}], "messages[0].role"),
    ([{"role": "user"}], "messages[0].content"),
    ([{"role": "user", "content": None}], "messages[0].content"),
    ([{"role": "user", "content": 5}], "messages[0].content"),
    ([{"role": "wizard", "content": "x"}], "messages[0].role"),
    ([{"role": 5, "content": "x"}], "messages[0].role"),
    ([{"role": "user", "content": "a"}, {"role": "user", "content": {}}], "messages[1].content"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}], "messages[0].content[0]"),
    ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
    ([{"role": "user", "content": ["x"]}], "messages[0].content[0]"),
    ([{"role": "assistant", "tool_calls": [{}]}], "messages[0].tool_calls[0].function"),
]


@pytest.mark.parametrize("messages,param", MESSAGES, ids=lambda x: str(x)[:50])
def test_messages(server, messages, param):
    reply = server.post("/v1/chat/completions", {"messages": messages})
    assert reply.status == 400, reply.body[:300]
    assert reply.error["param"] == param and param in reply.error["message"]


CHAT = [
    ({"top_logprobs": 5}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"logprobs": 5}, "logprobs"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_completion_tokens": -5}, "max_completion_tokens"),
    ({"tools": [{"type": "function", "function": {"name": "f" * 65}}]}, "tools[0].function.name"),
    ({"tools": [{"type": "function", "function": {"name": f"f{i}"}} for i in range(1025)]}, "tools"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": "{}"}}]}, "tools[0].function.parameters"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"echo": True}, "echo"),
    ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs.tokenize"),
    ({"chat_template_kwargs": 5}, "chat_template_kwargs"),
    ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
]


@pytest.mark.parametrize("fields,param", CHAT, ids=lambda x: str(x)[:40])
def test_chat_fields(server, fields, param):
    reply = server.post("/v1/chat/completions", {**M, **fields})
    assert reply.status == 400, reply.body[:300]
    assert reply.error["param"] == param


def test_unknown_model_is_404(server):
    for path, body in (("/v1/completions", P), ("/v1/chat/completions", M)):
        reply = server.post(path, {**body, "model": "gpt-9"})
        assert reply.status == 404 and reply.error["param"] == "model" and "gpt-9" in reply.error["message"]


@pytest.mark.parametrize("fields", [
    {"temperature": 0}, {"temperature": 1e-9}, {"temperature": None}, {"top_p": 0}, {"top_k": -1}, {"top_k": 0},
    {"top_k": 10**9}, {"seed": -1}, {"seed": 2**62}, {"seed": 0}, {"stop": None}, {"logit_bias": None},
    {"temperature": -0.0}, {"min_p": 1}, {"user": "x", "unknown_field": {"a": [1]}}, {"n": 1.0}, {"max_tokens": 10**9},
    {"stop": "\u00e9"}, {"logit_bias": {}}, {"typical_p": 0.5}], ids=str)
def test_edges_that_are_fine(server, fields):
    assert server.post("/v1/completions", {**P, "max_tokens": 3, **fields}).status == 200


def test_long_runs_of_one_letter(server):
    reply = server.post("/tokenize", {"content": "a" * 900_000})
    assert reply.status == 200 and reply.json["count"] > 1000
    assert server.complete("a" * 900_000).status == 400


@pytest.mark.parametrize("path,body,param", [
    ("/tokenize", {}, "prompt"), ("/tokenize", {"content": 5}, "content"), ("/detokenize", {}, "tokens"),
    ("/detokenize", {"tokens": [5000]}, "tokens[0]"), ("/detokenize", {"tokens": "x"}, "tokens"),
    ("/apply-template", {}, "messages"), ("/apply-template", {"messages": []}, "messages")])
def test_text_routes(server, path, body, param):
    reply = server.post(path, body)
    assert reply.status == 400 and reply.error["param"] == param
