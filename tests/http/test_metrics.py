"""/metrics under vLLM's names and bucket edges, read by Prometheus' own parser; the ORCA header; traces and logs."""
import hashlib
import json
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from conftest import Server

# vllm/v1/metrics/loggers.py; counters without the _total that the exposition adds.
GAUGES = """num_requests_running num_requests_waiting num_requests_waiting_by_reason kv_cache_usage_perc engine_sleep_state
    lora_requests_info cache_config_info
    gpu_cache_usage_perc gpu_prefix_cache_hit_rate cpu_cache_usage_perc num_requests_swapped""".split()
COUNTERS = """prompt_tokens prompt_tokens_by_source prompt_tokens_cached generation_tokens request_success num_preemptions
    prefix_cache_queries prefix_cache_hits external_prefix_cache_queries external_prefix_cache_hits mm_cache_queries
    mm_cache_hits corrupted_requests spec_decode_num_drafts spec_decode_num_draft_tokens spec_decode_num_accepted_tokens
    spec_decode_num_accepted_tokens_per_pos tool_call_parser_invocations estimated_flops_per_gpu
    estimated_read_bytes_per_gpu estimated_write_bytes_per_gpu
    gpu_prefix_cache_hits gpu_prefix_cache_queries""".split()
LENGTHS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000]  # 1-2-5 up to the demo model's context of 2048
TTFT = [.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560]
TOKEN = [.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80]
REQUEST = [.3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680]
HISTOGRAMS = {
    **{f"request_{k}": LENGTHS for k in ("prompt_tokens", "generation_tokens", "max_num_generation_tokens",
                                         "params_max_tokens", "prefill_kv_computed_tokens")},
    "request_params_n": [1, 2, 5, 10, 20],
    "iteration_tokens_total": [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384],
    "time_to_first_token_seconds": TTFT,
    "inter_token_latency_seconds": TOKEN,
    "request_time_per_output_token_seconds": TOKEN,
    "time_per_output_token_seconds": TOKEN,
    "e2e_request_latency_seconds": REQUEST,
    **{f"request_{k}_time_seconds": REQUEST for k in ("queue", "inference", "prefill", "decode")},
}
LABELS = {
    "num_requests_waiting_by_reason": {"reason": {"capacity", "deferred"}},
    "engine_sleep_state": {"sleep_state": {"awake", "weights_offloaded", "discard_all"}},
    "prompt_tokens_by_source": {"source": {"local_compute", "local_cache_hit", "external_kv_transfer"}},
    "request_success": {"finished_reason": {"stop", "length", "abort", "error", "repetition"}},
    "lora_requests_info": {"max_lora": {"0"}, "waiting_lora_adapters": {""}, "running_lora_adapters": {""}},
    "cache_config_info": {"block_size": {"16"}, "num_gpu_blocks": None},
}
TRACE = "0af7651916cd43dd8448eb211c80319c"


def families(server):
    reply = server.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    text = reply.body.decode()
    found = list(text_string_to_metric_families(text))
    assert len({f.name for f in found}) == len(found), "a family stands there twice"
    keys = [(s.name, tuple(sorted(s.labels.items()))) for f in found for s in f.samples]
    assert len(set(keys)) == len(keys), "a series stands there twice"
    # Every series belongs to a family with a type and a help text.
    assert all(f.type != "unknown" and f.documentation for f in found)
    return {f.name: f for f in found}


def values(server):
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families(server).values() for s in f.samples}


def total(seen, name, **labels):
    picked = [v for (n, l), v in seen.items() if n == name and labels.items() <= dict(l).items()]
    assert picked, name
    return sum(picked)


@pytest.fixture(scope="module")
def own():
    s = Server("--max-seqs", "8")
    yield s
    assert s.stop() == 0


def test_every_series_of_vllm_with_its_type_labels_and_edges(server):
    found = families(server)
    for name in GAUGES:
        assert found[f"vllm:{name}"].type == "gauge", name
    for name in COUNTERS:
        assert found[f"vllm:{name}"].type == "counter", name
        assert all(s.name == f"vllm:{name}_total" for s in found[f"vllm:{name}"].samples)
    for name, edges in HISTOGRAMS.items():
        family = found[f"vllm:{name}"]
        assert family.type == "histogram", name
        buckets = [s for s in family.samples if s.name.endswith("_bucket")]
        assert [float(s.labels["le"]) for s in buckets] == edges + [float("inf")], name
        counts = [s.value for s in buckets]
        assert counts == sorted(counts)
        assert counts[-1] == [s.value for s in family.samples if s.name.endswith("_count")][0]
    for name in GAUGES + COUNTERS + list(HISTOGRAMS):
        for sample in found[f"vllm:{name}"].samples:
            more = set(sample.labels) - {"model_name", "engine", "le"}
            assert sample.labels["model_name"] == "nibble-demo" and sample.labels["engine"] == "0"
            assert more == set(LABELS.get(name, {})) or name == "spec_decode_num_accepted_tokens_per_pos", name
    for name, labels in LABELS.items():
        for label, want in labels.items():
            got = {s.labels[label] for s in found[f"vllm:{name}"].samples}
            assert want is None or got == want
    # None but vLLM's own under its prefix; all others are ours.
    known = {f"vllm:{n}" for n in GAUGES + COUNTERS + list(HISTOGRAMS)}
    assert {n for n in found if n.startswith("vllm:")} == known
    assert all(n.startswith("nibble:") for n in set(found) - known)


def test_the_schema_at_zero_is_the_schema_for_ever(own):
    before = values(own)
    assert not [k for k, v in before.items() if v != v], "NaN"
    assert total(before, "vllm:generation_tokens_total") == 0
    assert total(before, "vllm:gpu_prefix_cache_hit_rate") == 0
    own.chat("Hello!", max_tokens=4)
    own.complete(["one", "two"], n=2, max_tokens=3, stream=False)
    own.stream("/v1/completions", {"prompt": "three", "max_tokens": 4})
    own.post("/v1/chat/completions", "{")
    own.get("/nothing")
    after = values(own)
    assert set(after) == set(before)
    assert sum(after.values()) > sum(before.values())
    again = values(own)  # a scrape resets nothing; only what counts the scrapes themselves goes on
    grown = {k for k in after if again[k] != after[k]}
    assert all(k[0].startswith("nibble:http_requests_total") for k in grown), grown


def test_counts_are_exact(own):
    """As vLLM's own test of its metrics has it: 10 requests of one prompt, 10 tokens each."""
    n, tokens = 10, 10
    prompt = own.post("/tokenize", {"content": "Once upon a time", "add_special": True}).json["tokens"]
    before = values(own)
    for _ in range(n):
        own.complete(prompt, max_tokens=tokens, ignore_eos=True)
    after = values(own)
    grown = lambda name, **labels: total(after, f"vllm:{name}", **labels) - total(before, f"vllm:{name}", **labels)
    assert grown("prompt_tokens_total") == n * len(prompt) == grown("request_prompt_tokens_sum")
    assert grown("generation_tokens_total") == n * tokens == grown("request_generation_tokens_sum")
    assert grown("request_success_total", finished_reason="length") == n == grown("request_success_total")
    assert grown("inter_token_latency_seconds_count") == n * (tokens - 1) == grown("time_per_output_token_seconds_count")
    assert grown("iteration_tokens_total_sum") == n * (len(prompt) + tokens)
    assert grown("iteration_tokens_total_count") == n * tokens
    assert grown("request_params_n_sum") == n and grown("request_params_max_tokens_sum") == n * tokens
    assert grown("request_max_num_generation_tokens_sum") == n * tokens
    for name in ("request_prompt_tokens", "request_generation_tokens", "request_params_n", "request_params_max_tokens",
                 "time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds",
                 "request_inference_time_seconds", "request_prefill_time_seconds", "request_decode_time_seconds",
                 "request_time_per_output_token_seconds", "request_prefill_kv_computed_tokens"):
        assert grown(name + "_count") == n, name
    parts = [grown(f"request_{k}_time_seconds_sum") for k in ("prefill", "decode", "inference")]
    assert parts[0] + parts[1] == pytest.approx(parts[2])
    assert grown("e2e_request_latency_seconds_sum") >= parts[2] > 0


@pytest.mark.parametrize("stream", [False, True])
def test_counters_are_the_sums_of_usage(own, stream):
    """n of 3, two prompts, ends by eos, by length and by a stop string, prompts in the cache."""
    bodies = [
        {"prompt": ["Once upon a time", "The fox had a lantern"], "n": 3, "max_tokens": 12, "temperature": 1, "seed": 4},
        {"prompt": "The quick brown fox has a lantern and a map, and it walks. " * 4, "max_tokens": 5},
        {"prompt": "The quick brown fox has a lantern and a map, and it walks. " * 4, "max_tokens": 5},
    ]
    chats = [{"messages": [{"role": "user", "content": "Hello! Who are you?"}], "temperature": 0},  # ends by eos
             {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}]
    before, usages, reasons, n_sequences = values(own), [], [], 0
    for path, body in [("/v1/completions", b) for b in bodies] + [("/v1/chat/completions", b) for b in chats]:
        if stream:
            _, events = own.stream(path, {**body, "stream_options": {"include_usage": True}})
            usages.append(events[-2]["usage"])
            reasons += [c["finish_reason"] for e in events[:-1] for c in e["choices"] if c["finish_reason"]]
        else:
            reply = own.post(path, body).json
            usages.append(reply["usage"])
            reasons += [c["finish_reason"] for c in reply["choices"]]
    after = values(own)
    grown = lambda name, **labels: total(after, f"vllm:{name}", **labels) - total(before, f"vllm:{name}", **labels)
    made = sum(u["completion_tokens"] for u in usages)
    asked = sum(u["prompt_tokens"] for u in usages)
    cached = sum(u["prompt_tokens_details"]["cached_tokens"] for u in usages)
    assert "stop" in reasons and "length" in reasons and cached > 0
    assert grown("generation_tokens_total") == made == grown("request_generation_tokens_sum")
    assert grown("prompt_tokens_total") == asked == grown("request_prompt_tokens_sum")
    assert grown("prompt_tokens_cached_total") == cached == grown("prompt_tokens_by_source_total", source="local_cache_hit")
    assert grown("prompt_tokens_by_source_total", source="local_compute") == asked - cached
    assert grown("request_prefill_kv_computed_tokens_sum") == asked - cached
    assert grown("inter_token_latency_seconds_count") == made - len(reasons)
    assert grown("time_to_first_token_seconds_count") == len(reasons) == grown("request_success_total")
    for reason in ("stop", "length"):
        assert grown("request_success_total", finished_reason=reason) == reasons.count(reason)
    assert grown("request_params_n_count") == 6 and grown("request_params_n_sum") == 3 + 3 + 4
    assert grown("iteration_tokens_total_sum") == asked + made


def test_outcomes_and_streams(own):
    before = values(own)
    own.complete("x", max_tokens=1)
    own.post("/v1/completions", {"prompt": 5})
    own.get("/v1/completions")
    after = values(own)
    grown = lambda **labels: total(after, "nibble:http_requests_total", **labels) - total(before, "nibble:http_requests_total", **labels)
    assert grown(route="completions", outcome="ok") == 1 and grown(route="completions", outcome="4xx") == 2
    assert total(after, "nibble:streams") == 0


# ---- ORCA ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("form", ["TEXT", "JSON", "json"])
def test_load_header(server, form, stream):
    reply = server.post("/v1/completions", {"prompt": "Once", "max_tokens": 2, "stream": stream},
                        headers={"endpoint-load-metrics-format": form})
    kind, rest = reply.headers["endpoint-load-metrics"].split(" ", 1)
    assert kind == form.upper()
    if kind == "JSON":
        got = json.loads(rest)
        assert list(got) == ["named_metrics"]
        got = got["named_metrics"]
    else:
        got = {k.strip(): float(v) for k, v in (p.split("=") for p in rest.split(","))}
        got = {k.removeprefix("named_metrics."): v for k, v in got.items()}
    assert set(got) == {"kv_cache_usage_perc", "num_requests_waiting"}
    assert 0 <= got["kv_cache_usage_perc"] <= 1 and got["num_requests_waiting"] >= 0


def test_no_load_header_unless_asked_for(server):
    for headers in ({}, {"endpoint-load-metrics-format": "BIN"}, {"endpoint-load-metrics-format": ""}):
        assert "endpoint-load-metrics" not in server.post("/v1/completions", {"prompt": "x", "max_tokens": 1},
                                                          headers=headers).headers


# ---- traces and logs -------------------------------------------------------------------------


def test_traces_go_back(server):
    good = f"00-{TRACE}-b7ad6b7169203331-01"
    for path, body in (("/v1/completions", {"prompt": "x", "max_tokens": 1}),
                       ("/v1/completions", {"prompt": "x", "max_tokens": 1, "stream": True}), ("/v1/completions", {})):
        back = server.post(path, body, headers={"traceparent": good}).headers["traceresponse"]
        assert re.fullmatch(rf"00-{TRACE}-[0-9a-f]{{16}}-01", back) and "b7ad6b7169203331" not in back
    for bad in (good.upper(), good + "x", "00-0-0-0", "ff" + good[2:], "\u00e9".encode("latin1").decode("latin1")):
        assert "traceresponse" not in server.get("/health", headers={"traceparent": bad}).headers
    assert "traceresponse" not in server.get("/health").headers


def test_log_lines_are_json_without_text(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("secret-key\n")
    s = Server("--log-json", "--log-requests", "--api-key-file", str(keys))
    mark, salt = "xylophone-planted", "salt-planted"
    auth = {"Authorization": "Bearer secret-key"}
    s.post("/v1/completions", {"prompt": mark * 3, "max_tokens": 3, "ignore_eos": True, "stop": [mark], "cache_salt": salt, "user": mark},
           headers={**auth, "X-Request-Id": "me.1-2_3", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"})
    s.post("/v1/chat/completions", {"messages": [{"role": "user", "content": mark}], "max_tokens": 2, "stream": True}, headers=auth)
    s.post("/v1/completions", {"prompt": mark, "max_tokens": -7, mark: 1}, headers=auth)
    s.post("/v1/completions", {"prompt": mark}, headers={"Authorization": "Bearer " + mark})
    s.post("/" + mark, {"prompt": mark}, headers=auth)
    s.post("/v1/completions", {"prompt": mark}, headers={**auth, "X-Request-Id": 'a"b=c d', "traceparent": mark})
    assert s.stop() == 0
    lines = [json.loads(line) for line in s.lines if line.startswith("{")]
    assert lines and all({"ts", "level", "event"} <= set(line) for line in lines)
    assert not re.search(f"{mark}|{salt}|secret-key", "".join(s.lines)), "text or a key in the log"
    requests = [line for line in lines if line["event"] == "request"]
    assert len(requests) == 6
    first = requests[0]
    assert first["request_id"] == "me.1-2_3" and first["trace_id"] == TRACE and re.fullmatch("[0-9a-f]{16}", first["span_id"])
    assert first["key_id"] == hashlib.sha256(b"secret-key").hexdigest()[:8]
    assert first["tokens"] == 3 and first["prompt_tokens"] > 3 and first["cached_tokens"] == 0
    assert first["status"] == 200 and first["outcome"] == "done" and 0 < first["ttft_ms"] <= first["ms"]
    assert requests[1]["tokens"] == 2 and requests[1]["trace_id"] == ""
    assert [r["status"] for r in requests] == [200, 200, 400, 401, 404, 200]
    assert requests[3]["key_id"] == "" and requests[4]["path"] == "-"
    assert re.fullmatch("[0-9a-f]{24}", requests[5]["request_id"]) and requests[5]["trace_id"] == ""


@pytest.mark.parametrize("alias", ['we"ird\\na}me é', "é" * 300, "x" * 120], ids=["quotes", "long", "plain"])
def test_names_of_models_are_escaped(alias):
    s = Server("--alias", alias)
    labels = {sample.labels.get("model_name") for f in families(s).values() for sample in f.samples} - {None}
    assert len(labels) == 1
    label = labels.pop()
    assert alias.startswith(label) and (label == alias or len(label.encode()) > 150)
    assert s.get("/v1/models").json["data"][0]["id"] == alias == s.get("/props").json["model_alias"]
    assert s.get("/server_info").json["served_model_name"] == alias
    assert s.post("/v1/completions/render", {"prompt": "x", "model": alias}).json[0]["model"] == alias
    assert s.stop() == 0
