"""Every field of chat and completions that is honoured: what it does, and that a stream says what a collected reply says."""
import math
import random
import threading

import pytest

from conftest import Server, text_of

STORY = "Tell me a story about a fox and a lantern."
ONCE = "Once upon a time"
PATHS = ["/v1/chat/completions", "/v1/completions"]


def body_of(path, **fields):
    body = {"max_tokens": 40, **fields}
    if "prompt" in body or "messages" in body:
        return body
    return body | ({"messages": [{"role": "user", "content": STORY}]} if "chat" in path else {"prompt": ONCE})


def text(choice):
    return choice["message"]["content"] if "message" in choice else choice["text"]


def ids_of(server, string, **more):
    return server.post("/tokenize", {"content": string, **more}).json["tokens"]


def joined(events):
    """What the choices of a stream say, put together: text, ids, log-probabilities, reasons."""
    found = {}
    for event in events[:-1]:
        for choice in event["choices"]:
            c = found.setdefault(choice["index"], {"text": "", "ids": [], "content": [], "columns": {}, "reasons": []})
            piece = choice["delta"].get("content") if "delta" in choice else choice["text"]
            c["text"] += piece or ""
            c["ids"] += choice.get("token_ids") or []
            logprobs = choice["logprobs"] or {}
            c["content"] += logprobs.get("content") or []
            for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
                c["columns"].setdefault(key, []).extend(logprobs.get(key) or [])
            if choice["finish_reason"]:
                c["reasons"].append((choice["finish_reason"], choice["stop_reason"]))
    return found


def assert_same(whole, events):
    """A stream's events against the collected reply of the same request."""
    found = joined(events)
    assert sorted(found) == [c["index"] for c in whole["choices"]]
    for choice in whole["choices"]:
        got = found[choice["index"]]
        assert got["text"] == text(choice)
        assert got["ids"] == (choice.get("token_ids") or [])
        assert got["reasons"] == [(choice["finish_reason"], choice["stop_reason"])]
        logprobs = choice["logprobs"] or {}
        assert got["content"] == (logprobs.get("content") or [])
        assert all(got["columns"][k] == (logprobs.get(k) or []) for k in got["columns"])


SAMPLERS = [
    {"temperature": 0.9, "seed": 1, "top_n_sigma": 1.0},
    {"temperature": 1.1, "seed": 2, "xtc_probability": 0.5, "xtc_threshold": 0.05},
    {"temperature": 1, "seed": 3, "mirostat": 1, "mirostat_tau": 3},
    {"temperature": 1, "seed": 4, "mirostat": 2, "mirostat_tau": 2, "mirostat_eta": 0.3},
    {"temperature": 0.8, "seed": 5, "dynatemp_range": 0.5, "dynatemp_exponent": 1.5},
    {"temperature": 0, "dry_multiplier": 1.5, "dry_allowed_length": 1, "dry_penalty_last_n": -1},
    {"temperature": 1, "seed": 6, "dry_multiplier": 0.8, "dry_sequence_breakers": ["\n", " the", ". T"]},
    {"temperature": 1, "seed": 7, "samplers": ["top_k", "temperature"], "top_k": 5},
    {"temperature": 1, "seed": 8, "samplers": "edkypmxt", "top_p": 0.5, "repeat_penalty": 1.3},
    {"temperature": 0, "repeat_penalty": 1.5, "repeat_last_n": 16, "frequency_penalty": 0.5},
    {"temperature": 1, "seed": 9, "top_p": 0.1, "min_p": 0.5, "min_keep": 3},
    {"temperature": 1, "seed": 10, "typical_p": 0.4},
    {"temperature": 0, "bad_words": ["the", " lantern", "fox and"]},
    {"temperature": 1, "seed": 11, "allowed_token_ids": list(range(300, 700))},
    {"temperature": 0, "logit_bias": [[300, 2.5], [" a", -3], [" the", False]]},
]
SHAPES = [
    {"n": 3}, {"stop": ["the ", "lantern"], "include_stop_str_in_output": True}, {"stop": " a"}, {"stop_token_ids": [300, 301, 310]},
    {"return_token_ids": True}, {"skip_special_tokens": False, "spaces_between_special_tokens": False, "ignore_eos": True},
    {"truncate_prompt_tokens": 3}, {"min_tokens": 20}, {"cache_prompt": False}, {"timings_per_token": True},
    {"return_progress": True}, {"priority": -2, "cache_salt": "x"},
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("fields", SAMPLERS + [{"temperature": 0.9, "seed": 7, **s} for s in SHAPES], ids=lambda f: str(f)[:50])
def test_stream_equals_collected(server, path, fields):
    logprobs = {"logprobs": True, "top_logprobs": 2} if "chat" in path else {"logprobs": 2}
    for more in ({}, {**logprobs, "return_token_ids": True}, {**logprobs, "return_tokens_as_token_ids": True}):
        body = body_of(path, **fields) | more
        whole = server.post(path, body)
        assert whole.status == 200, whole.body[:300]
        _, events = server.stream(path, body)
        assert_same(whole.json, events)


@pytest.mark.parametrize("seed", range(24))
def test_stream_equals_collected_for_mixed_fields(server, seed):
    """Fields drawn together, from the samplers and the shapes alike."""
    rng = random.Random(seed)
    path = PATHS[seed % 2]
    fields = {}
    for part in rng.sample(SAMPLERS, 2) + rng.sample(SHAPES, 3):
        fields |= part
    fields |= {"seed": seed}
    if rng.random() < 0.5:
        fields |= {"logprobs": True, "top_logprobs": 3} if "chat" in path else {"logprobs": 3, "echo": rng.random() < 0.5}
    if "chat" not in path and rng.random() < 0.5:
        fields["prompt"] = rng.choice([[ONCE, "The fox", "A"], [[5, 6, 7, 8, 9], [300] * 40]])
    body = body_of(path, **fields)
    whole = server.post(path, body)
    assert whole.status == 200, whole.body[:300]
    _, events = server.stream(path, body)
    assert_same(whole.json, events)


# ---- which token comes next ------------------------------------------------------------------------------------------


def greedy(server, **fields):
    got = server.complete(ONCE, temperature=0, max_tokens=24, return_token_ids=True, **fields)
    assert got.status == 200, got.body[:300]
    return got.json["choices"][0]


def test_logit_bias_forms(server):
    """Object, pairs of ids, pairs of text, false: as llama-server's test of its four forms has them."""
    base = greedy(server)
    banned = base["token_ids"][2]
    word = server.post("/detokenize", {"tokens": [banned]}).json["content"]
    assert ids_of(server, word) == [banned]
    texts = set()
    for bias in ({str(banned): -100}, [[banned, -100]], [[word, -100]], [[banned, False]], {str(banned): False}, [[word, False]]):
        got = greedy(server, logit_bias=bias)
        assert banned not in got["token_ids"]
        texts.add(got["text"])
    assert len(texts) == 1 and texts != {base["text"]}
    halves = greedy(server, logit_bias=[[banned, -50], [word, -50], [banned, 30], [banned, -30]])
    assert {halves["text"]} == texts  # biases of one token add up


def test_allowed_tokens(server):
    allowed = [300, 301, 302, 400]
    got = server.complete(ONCE, temperature=1.5, max_tokens=60, allowed_token_ids=allowed, return_token_ids=True, logprobs=3)
    assert set(got.json["choices"][0]["token_ids"]) <= set(allowed)
    assert len(set(got.json["choices"][0]["token_ids"])) > 1
    assert len(got.json["choices"][0]["logprobs"]["top_logprobs"][0]) >= 3  # of the raw logits


def test_bad_words(server):
    base = greedy(server)["text"]
    words = [w for w in base.split() if w.isalpha()]
    for word in words[:3]:
        got = greedy(server, bad_words=[word])["text"]
        assert word not in got.split()
    pair = " ".join(words[:2])
    got = greedy(server, bad_words=[pair])["text"]
    assert pair in base and pair not in got


def test_repetition_is_ended_by_dry(server):
    """A greedy text that has fallen into a loop leaves it."""
    loop = "the fox and the map, the fox and the map, the fox and the map, the fox and"
    ask = lambda **f: server.complete(loop, temperature=0, max_tokens=12, **f).json["choices"][0]["text"]
    free = ask(logit_bias=[[" the map, the fox", 3]])
    held = ask(logit_bias=[[" the map, the fox", 3]], dry_multiplier=5, dry_allowed_length=2, dry_penalty_last_n=-1,
               dry_sequence_breakers=[])
    assert free != held
    broken = ask(logit_bias=[[" the map, the fox", 3]], dry_multiplier=5, dry_allowed_length=2, dry_penalty_last_n=-1,
                 dry_sequence_breakers=[" and", "and"])
    assert broken != held  # the last word of the prompt ends every repetition before the first token


def test_temperature_zero_with_chains_is_greedy(server):
    base = greedy(server)["text"]
    assert greedy(server, samplers=["top_k", "top_p", "temperature"])["text"] == base
    assert greedy(server, top_n_sigma=1)["text"] == base
    assert greedy(server, mirostat=2)["text"] == base
    assert greedy(server, min_keep=5)["text"] == base
    one = server.complete(ONCE, temperature=1, samplers=["top_k"], top_k=1, max_tokens=24).json["choices"][0]["text"]
    assert one == base
    free = {server.complete(ONCE, temperature=0, samplers=[], seed=s, max_tokens=24).json["choices"][0]["text"] for s in range(4)}
    assert len(free) > 1  # no sampler is named, temperature neither


def test_seeds_of_chains(server):
    ask = lambda seed: server.complete(ONCE, temperature=1, seed=seed, mirostat=2, xtc_probability=0.5,
                                       n=2).json["choices"]
    first, again = ask(5), ask(5)
    assert [text(c) for c in first] == [text(c) for c in again]
    assert text(first[0]) != text(first[1])
    assert len({text(ask(s)[0]) for s in range(4)}) > 1


def test_mirostat_keeps_its_surprise(server):
    """The mean surprise of what is drawn is near tau, in bits, where the model's own would be higher."""
    def surprise(**fields):
        got = server.complete(ONCE, temperature=1.6, seed=3, max_tokens=300, ignore_eos=True, logprobs=0, **fields).json
        values = got["choices"][0]["logprobs"]["token_logprobs"]
        return -sum(values) / len(values) / math.log(2)
    free, low, high = surprise(), surprise(mirostat=2, mirostat_tau=1), surprise(mirostat=2, mirostat_tau=4)
    assert low < high <= free + 1
    assert low < 2.5


# ---- what comes back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_best_of(server, path):
    """The best of five are the likeliest by their mean log-probability, and all five are paid for."""
    fields = {"temperature": 1.2, "seed": 4, "max_tokens": 12, "ignore_eos": True}
    logprobs = {"logprobs": True} if "chat" in path else {"logprobs": 0}
    every = server.post(path, body_of(path, n=5, **fields, **logprobs)).json["choices"]
    def mean(choice):
        lp = choice["logprobs"]
        values = [t["logprob"] for t in lp["content"]] if "chat" in path else lp["token_logprobs"]
        return sum(values) / len(values)
    ranking = sorted(every, key=mean, reverse=True)
    for n in (1, 2, 5):
        for shown in ({}, logprobs):
            got = server.post(path, body_of(path, n=n, best_of=5, **fields, **shown)).json
            assert [c["index"] for c in got["choices"]] == list(range(n))
            if n < 5:
                assert [text(c) for c in got["choices"]] == [text(c) for c in ranking[:n]]
            assert got["usage"]["completion_tokens"] == 60
            assert all((c["logprobs"] is not None) == bool(shown) for c in got["choices"])


def test_best_of_with_prompts(server):
    got = server.complete([ONCE, "The fox"], n=2, best_of=3, temperature=1, seed=1, max_tokens=6, ignore_eos=True).json
    assert [c["index"] for c in got["choices"]] == [0, 1, 2, 3]
    assert got["usage"]["completion_tokens"] == 36
    alone = server.complete("The fox", n=2, best_of=3, temperature=1, seed=1, max_tokens=6, ignore_eos=True).json
    assert [text(c) for c in got["choices"][2:]] == [text(c) for c in alone["choices"]]


def test_usage_of_n_and_of_lists(server):
    ids = ids_of(server, "In the wood", add_special=True)
    many = "The quick brown fox has a lantern and a map, and it walks on. " * 4
    long = ids_of(server, many, add_special=True)
    server.complete(many, max_tokens=1, cache_salt="usage")
    for stream in (False, True):
        body = {"prompt": ["In the wood", many, "In the wood"], "n": 3, "max_tokens": 5, "ignore_eos": True, "cache_salt": "usage"}
        if stream:
            _, events = server.stream("/v1/completions", body | {"stream_options": {"include_usage": True}})
            got = events[-2]
        else:
            got = server.post("/v1/completions", body).json
        usage, timings = got["usage"], got["timings"]
        assert usage["prompt_tokens"] == 2 * len(ids) + len(long)  # once a prompt, not once a choice
        assert usage["completion_tokens"] == 45 == timings["predicted_n"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + 45
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        assert 0 < cached <= len(long) and cached % 16 == 0
        assert timings["cache_n"] == cached and timings["prompt_n"] == usage["prompt_tokens"] - cached


def test_a_streamed_list_has_no_empty_events(server):
    body = {"prompt": [ONCE, "The fox", "A", "In the"], "max_tokens": 20, "temperature": 0.8, "seed": 3, "n": 2}
    _, events = server.stream("/v1/completions", body)
    for event in events[:-1]:
        assert len(event["choices"]) == 1
        choice = event["choices"][0]
        assert choice["text"] or choice["finish_reason"]


def test_prompt_logprobs(server):
    """vLLM's shape, on completions beside each choice, in chat at the top; the values are echo's."""
    ids = ids_of(server, "The fox had a red lantern.", add_special=True)
    echo = server.complete([ids], max_tokens=1, echo=True, logprobs=3, temperature=0).json["choices"][0]["logprobs"]
    got = server.complete([ids, ids], max_tokens=1, prompt_logprobs=3, temperature=0).json
    for choice in got["choices"]:
        listed = choice["prompt_logprobs"]
        assert len(listed) == len(ids) and listed[0] is None and choice["logprobs"] is None
        for place in range(1, len(ids)):
            entry = listed[place]
            own = entry[str(ids[place])]
            assert own["logprob"] == echo["token_logprobs"][place]
            assert own["decoded_token"] == echo["tokens"][place]
            assert list(entry)[0] == str(ids[place]) and 3 <= len(entry) <= 4
            ranks = {v["rank"]: v["logprob"] for v in entry.values() if v["rank"]}
            assert sorted(ranks) == [1, 2, 3] and ranks[1] >= ranks[2] >= ranks[3]
            assert own["rank"] or own["logprob"] <= ranks[3]
    both = server.complete([ids], max_tokens=1, prompt_logprobs=1, echo=True, logprobs=3, temperature=0).json["choices"][0]
    assert both["logprobs"]["token_logprobs"] == echo["token_logprobs"]
    assert all(len(e) <= 2 for e in both["prompt_logprobs"][1:])
    chat = server.chat("Hi", max_tokens=2, prompt_logprobs=0, return_tokens_as_token_ids=True).json
    assert len(chat["prompt_logprobs"]) == chat["usage"]["prompt_tokens"] and len(chat["prompt_logprobs"][1]) == 1
    (key, value), = chat["prompt_logprobs"][1].items()
    assert value["decoded_token"] == f"token_id:{key}" and "prompt_logprobs" not in chat["choices"][0]


def test_tokens_as_token_ids(server):
    got = server.complete(ONCE, temperature=0, max_tokens=5, logprobs=2, return_tokens_as_token_ids=True,
                          return_token_ids=True).json["choices"][0]
    assert got["logprobs"]["tokens"] == [f"token_id:{i}" for i in got["token_ids"]]
    assert all(t in tops for t, tops in zip(got["logprobs"]["tokens"], got["logprobs"]["top_logprobs"]))
    chat = server.chat(STORY, temperature=0, max_tokens=5, logprobs=True, top_logprobs=2, return_token_ids=True,
                       return_tokens_as_token_ids=True).json["choices"][0]
    content = chat["logprobs"]["content"]
    assert [t["token"] for t in content] == [f"token_id:{i}" for i in chat["token_ids"]]
    assert all(top["token"].startswith("token_id:") for t in content for top in t["top_logprobs"])
    assert bytes(b for t in content for b in t["bytes"]).decode() == chat["message"]["content"]


def test_truncated_prompts(server):
    long = "The quick brown fox has a lantern and a map. " * 20
    ids = ids_of(server, long, add_special=True)
    got = server.complete(long, truncate_prompt_tokens=10, max_tokens=4, temperature=0, return_token_ids=True, echo=True).json
    assert got["choices"][0]["prompt_token_ids"] == ids[-10:] and got["usage"]["prompt_tokens"] == 10
    alone = server.complete([ids[-10:]], max_tokens=4, temperature=0, echo=True).json
    assert alone["choices"][0]["text"] == got["choices"][0]["text"]
    assert server.complete(ONCE, truncate_prompt_tokens=500, max_tokens=1).json["usage"]["prompt_tokens"] == len(ids_of(server, ONCE, add_special=True))
    too_long = "word " * 3000
    fits = server.complete(too_long, truncate_prompt_tokens=-1, max_tokens=100, ignore_eos=True).json
    assert fits["usage"] | {"prompt_tokens_details": 0} == {"prompt_tokens": 1948, "completion_tokens": 100, "total_tokens": 2048,
                                                           "prompt_tokens_details": 0}
    chat = server.chat(too_long, truncate_prompt_tokens=-1, max_tokens=8, ignore_eos=True).json
    assert chat["usage"]["total_tokens"] == 2048


def test_continued_messages(server):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Once upon"}]
    for generation in ({}, {"add_generation_prompt": False}):
        body = {"messages": messages, "continue_final_message": True, **generation}
        assert server.post("/apply-template", body).json["prompt"].endswith("assistant\nOnce upon")
        got = server.post("/v1/chat/completions", body | {"max_tokens": 3, "return_token_ids": True}).json
        assert got["prompt_token_ids"] == server.post("/tokenize", body).json["tokens"]
    plain = server.post("/v1/chat/completions", {"messages": messages, "max_tokens": 3, "add_generation_prompt": False,
                                                 "return_token_ids": True}).json
    assert plain["prompt_token_ids"][-1] != got["prompt_token_ids"][-1]


def test_special_tokens_in_front_of_chat(server):
    plain = server.chat("Hi", max_tokens=1, return_token_ids=True).json["prompt_token_ids"]
    added = server.chat("Hi", max_tokens=1, return_token_ids=True, add_special_tokens=True).json["prompt_token_ids"]
    assert added in (plain, [0] + plain)  # the template has written BOS: there is never a second one unless asked for


def test_request_ids(server):
    for path, prefix in zip(PATHS, ("chatcmpl-", "cmpl-")):
        body = body_of(path, max_tokens=1)
        named = server.post(path, body | {"request_id": "mine-1.x_2"})
        assert named.json["id"] == prefix + "mine-1.x_2" and named.headers["x-request-id"] == "mine-1.x_2"
        header = server.post(path, body | {"request_id": "mine"}, headers={"X-Request-Id": "gate"})
        assert header.json["id"] == prefix + "gate" and header.headers["x-request-id"] == "gate"
        bad = server.post(path, body, headers={"X-Request-Id": "a b"})
        assert bad.status == 200 and bad.json["id"].startswith(prefix) and " " not in bad.json["id"]
        _, events = server.stream(path, body | {"request_id": "s" * 128})
        assert {e["id"] for e in events[:-1]} == {prefix + "s" * 128}
    again = [server.complete(ONCE, max_tokens=2, request_id="twice").status for _ in range(2)]
    assert again == [200, 200]


def test_priority_header(server):
    for value in ("0", "-5", "2147483647"):
        assert server.post("/v1/completions", {"prompt": ONCE, "max_tokens": 1}, headers={"X-Vllm-Priority": value}).status == 200
    for value in ("high", "1.5", "2147483648", "-", "1 2", "99999999999999999999"):
        reply = server.post("/v1/completions", {"prompt": ONCE, "max_tokens": 1}, headers={"X-Vllm-Priority": value})
        assert reply.status == 400 and reply.error["param"] == "X-Vllm-Priority"


def test_cache_prompt_false_shares_nothing(server):
    long = "A lantern and a map, and a fox that walks in the wood. " * 8
    ask = lambda **f: server.complete(long, max_tokens=2, temperature=0, cache_salt="share", **f).json
    first, again, alone = ask(), ask(), ask(cache_prompt=False)
    cached = lambda got: got["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached(again) > 0 and cached(alone) == 0
    assert text(alone["choices"][0]) == text(first["choices"][0])


@pytest.mark.parametrize("path", PATHS)
def test_timings_per_token(server, path):
    _, events = server.stream(path, body_of(path, timings_per_token=True, ignore_eos=True))
    counts = [e["timings"]["predicted_n"] for e in events[:-1] if "timings" in e]
    assert counts == sorted(counts) and counts[-1] == 40 and len(counts) > 5
    _, events = server.stream(path, body_of(path, ignore_eos=True))
    with_timings = [e for e in events[:-1] if "timings" in e]
    assert with_timings == [events[-2]] and events[-2]["choices"][0]["finish_reason"] == "length"
    _, events = server.stream(path, body_of(path, stream_options={"include_usage": True}, n=2))
    assert [e for e in events[:-1] if "timings" in e] == [events[-2]] and events[-2]["choices"] == []


@pytest.mark.parametrize("path", PATHS)
def test_progress(server, path):
    long = "The quick brown fox has a lantern and a map, and it walks. " * 60
    more = {"messages": [{"role": "user", "content": long}]} if "chat" in path else {"prompt": long}
    body = body_of(path, **more, return_progress=True, cache_salt="progress " + path, stream_options={"include_usage": True},
                   max_tokens=3)
    for warm in (False, True):
        _, events = server.stream(path, body)
        found = [e["prompt_progress"] for e in events[:-1] if "prompt_progress" in e]
        total = events[-2]["usage"]["prompt_tokens"]
        assert found and all(p["total"] == total and p["time_ms"] >= 0 for p in found)
        done = [p["processed"] for p in found]
        assert done == sorted(set(done)) and done[-1] == total
        assert all((p["cache"] > 0) == warm and p["cache"] <= p["processed"] for p in found)
        assert len(found) > 1 or warm
        first_token = next(i for i, e in enumerate(events) if e["choices"] and (
            e["choices"][0].get("text") or e["choices"][0].get("delta", {}).get("content")))
        assert all("prompt_progress" not in e for e in events[first_token:-1])
        if "chat" in path:
            assert events[0]["choices"][0]["delta"]["role"] == "assistant"
            assert sum("role" in e["choices"][0]["delta"] for e in events[:-2] if e["choices"]) == 1
    whole = server.post(path, {k: v for k, v in body.items() if k != "stream_options"})
    assert whole.status == 200 and b"prompt_progress" not in whole.body


def test_continuous_usage(server):
    _, events = server.stream("/v1/chat/completions", body_of(PATHS[0], stream_options={
        "include_usage": True, "continuous_usage_stats": True}, ignore_eos=True))
    counts = [e["usage"]["completion_tokens"] for e in events[:-1]]
    assert len(counts) == len(events) - 1 and counts == sorted(counts) and counts[0] <= 1 and counts[-1] == 40


def test_time_limit(server):
    """t_max_predict_ms ends a text once it has a line feed: nothing of it is lost, and the reason is length."""
    newline = ids_of(server, "\n")[-1]
    ask = dict(temperature=0, ignore_eos=True, max_tokens=1500)
    late = server.complete(ONCE, logit_bias={str(newline): 100}, t_max_predict_ms=1, **ask).json
    assert late["choices"][0]["finish_reason"] == "length" and late["usage"]["completion_tokens"] < 1500
    assert late["choices"][0]["text"].count("\n") == late["usage"]["completion_tokens"]
    never = server.complete(ONCE, logit_bias={str(newline): False}, t_max_predict_ms=1, **ask | {"max_tokens": 200}).json
    if "\n" not in never["choices"][0]["text"]:
        assert never["usage"]["completion_tokens"] == 200


def test_response_fields(server):
    for path in PATHS:
        body = body_of(path, temperature=0)
        whole = server.post(path, body).json
        got = server.post(path, body | {"response_fields": ["choices", "usage/completion_tokens", "usage/prompt_tokens_details",
                                                            "nothing", "usage/nothing", "model/x", "timings/predicted_n"]}).json
        assert list(got) == ["choices", "completion_tokens", "prompt_tokens_details", "predicted_n"]
        assert got["choices"] == whole["choices"] and got["predicted_n"] == got["completion_tokens"] == 40
        assert server.post(path, body | {"response_fields": []}).json.keys() == whole.keys()
        assert server.post(path, body | {"response_fields": ["nothing"]}).json == {}


def test_half_a_stop_string_is_never_lost(server):
    base = server.complete(ONCE, temperature=0, max_tokens=30).json["choices"][0]["text"]
    for cut in range(1, 12):
        stop = base[-cut:] + "\u2603"
        for stream in (False, True):
            body = {"prompt": ONCE, "temperature": 0, "max_tokens": 30, "stop": [stop, "\u2603"]}
            if stream:
                assert text_of(server.stream("/v1/completions", body)[1])[0] == base
            else:
                assert server.post("/v1/completions", body).json["choices"][0]["text"] == base


def test_unknown_fields_are_counted(server):
    before = server.metric("nibble:unknown_fields_total")
    assert server.complete(ONCE, max_tokens=1, no_such_field=1, another={"a": 1}).status == 200
    assert server.metric("nibble:unknown_fields_total") == before + 2


# ---- refusals --------------------------------------------------------------------------------------------------------

NOTHING_LEFT = [
    ({"allowed_token_ids": [2], "min_tokens": 1}, "allowed_token_ids"),
    ({"allowed_token_ids": [300], "logit_bias": {"300": False}}, "allowed_token_ids"),
    ({"allowed_token_ids": [300, 301], "stop_token_ids": [300, 301], "min_tokens": 1}, "allowed_token_ids"),
    ({"logit_bias": {str(i): False for i in range(4096)}}, "logit_bias"),
]


@pytest.mark.parametrize("fields,param", NOTHING_LEFT, ids=lambda x: str(x)[:40])
def test_nothing_left_to_draw(server, fields, param):
    reply = server.complete(ONCE, max_tokens=4, **fields)
    assert reply.status == 400 and reply.error["param"] == param and "no token is left" in reply.error["message"]
    assert server.complete(ONCE, max_tokens=4).status == 200


def test_bad_words_leave_something(server):
    """A pair whose last token is the only allowed one may never be drawn: refused before it could get stuck."""
    pair = ids_of(server, "fox and")
    reply = server.complete(ONCE, max_tokens=4, allowed_token_ids=[pair[-1]], bad_words=["fox and"])
    assert reply.status == 400 and reply.error["param"] == "allowed_token_ids"


def raw_number(server, field, number):
    """A number as it is spelled, which json.dumps would not."""
    body = '{"prompt":"hi","max_tokens":1,"%s":%s}' % (field, number)
    return server.request("POST", "/v1/completions", body.encode())


@pytest.mark.parametrize("field", ["temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty",
                                   "frequency_penalty", "dynatemp_range", "dynatemp_exponent", "top_n_sigma", "xtc_probability",
                                   "xtc_threshold", "dry_multiplier", "dry_base", "mirostat_tau", "mirostat_eta"])
def test_numbers_that_are_none(server, field):
    for number in ("1e400", "-1e400", "NaN", "Infinity", "-Infinity", "1" + "0" * 400):
        assert raw_number(server, field, number).status == 400
    for number in ("1e9", "-1e9", '"1"', "true", "[1]", "{}"):
        reply = raw_number(server, field, number)
        assert reply.status == 400 and reply.error["param"] == field and field in reply.error["message"], number
    assert raw_number(server, field, "1e-400" if field != "repeat_penalty" and field != "dry_base" else "1").status == 200
    assert raw_number(server, field, "null").status == 200


@pytest.mark.parametrize("field", ["top_k", "seed", "n", "best_of", "max_tokens", "min_tokens", "repeat_last_n", "min_keep",
                                   "dry_allowed_length", "dry_penalty_last_n", "mirostat", "priority", "prompt_logprobs",
                                   "truncate_prompt_tokens", "t_max_predict_ms"])
def test_integers_that_are_none(server, field):
    for number in ("1.5", '"1"', "true", "[1]", "9223372036854775808", "1e400", "-9223372036854775809", "1e30"):
        reply = raw_number(server, field, number) if field != "max_tokens" else \
            server.request("POST", "/v1/completions", ('{"prompt":"hi","max_tokens":%s}' % number).encode())
        assert reply.status == 400, number
        if number != "1e400":
            assert reply.error["param"] == field and field in reply.error["message"], number


@pytest.mark.parametrize("field", ["stop_token_ids", "allowed_token_ids"])
@pytest.mark.parametrize("number", ["-1", "4096", "4294967301", "18446744073709551621", "1.5", '"5"', "1e300", "true", "null"])
def test_ids_outside_the_vocabulary(server, field, number):
    reply = raw_number(server, field, f"[5,{number}]")
    assert reply.status == 400 and reply.error["param"] == f"{field}[1]"
    pair = raw_number(server, "logit_bias", f"[[{number},1]]")
    if number != '"5"':
        assert pair.status == 400 and pair.error["param"] == "logit_bias[0][0]"


def test_a_fault_of_a_client_leaves_others_alone(server):
    """The largest numbers that are allowed, all at once."""
    reply = server.complete(ONCE, max_tokens=8, temperature=100, top_k=2**31 - 1, repeat_penalty=100, presence_penalty=2,
                            frequency_penalty=2, dry_multiplier=100, dry_base=100, dry_allowed_length=0, dry_penalty_last_n=2**31 - 1,
                            repeat_last_n=2**31 - 1, min_keep=2**31 - 1, xtc_probability=1, xtc_threshold=0, top_n_sigma=1000,
                            dynatemp_range=100, dynatemp_exponent=100, typical_p=0, top_p=0, min_p=1,
                            logit_bias=[[i, 100] for i in range(300, 400)], bad_words=["a b", "c d"], stop=["x"])
    assert reply.status == 200 and reply.json["usage"]["completion_tokens"] >= 1
    for mirostat in (1, 2):
        for tau in (0, 100):
            assert server.complete(ONCE, max_tokens=8, mirostat=mirostat, mirostat_tau=tau, mirostat_eta=100,
                                   temperature=100).status == 200


def test_preempted_sequences_keep_their_samplers():
    """Mirostat's bound and DRY's history survive that a sequence loses its pages: too little memory for all at once."""
    small = Server("--activations", "exact", "--memory", "57MB", "--max-seqs", "16")
    try:
        def one(i):
            fields = [{"mirostat": 2, "mirostat_tau": 3}, {"mirostat": 1}, {"dry_multiplier": 1, "dry_penalty_last_n": -1},
                      {"bad_words": ["the fox", "a lantern"]}][i % 4]
            body = {"prompt": ONCE, "temperature": 1, "seed": i, "max_tokens": 290, "ignore_eos": True, **fields}
            return small.post("/v1/completions", body).json["choices"][0]["text"]
        alone = [one(i) for i in range(9)]
        before = small.metric("vllm:num_preemptions_total")
        found = [None] * 9
        threads = [threading.Thread(target=lambda i=i: found.__setitem__(i, one(i))) for i in range(9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == alone
        assert small.metric("vllm:num_preemptions_total") > before
    finally:
        assert small.stop() == 0
