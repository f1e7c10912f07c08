"""Tool calls of the demo model, which was taught to call (server/demo/README.md): its text, split, is its text; a stream's
deltas, joined, are the message; histories with tool_calls are rendered as the model was taught; what is refused."""
import json
import re
import subprocess

import pytest

from conftest import ROOT, Server, binary

TASKS = [json.loads(line) for line in (ROOT / "tests/oracle/demo/tasks.jsonl").read_text().splitlines()]
CALLS = [task for task in TASKS if task["task"] == "tool_call"][:12]
WEATHER = {"type": "function", "function": {"name": "get_time", "description": "Get the local time of a city",
                                            "parameters": {"type": "object", "properties": {"city": {"type": "string"}},
                                                           "required": ["city"]}}}
CALL = re.compile(r'<tool_call>\n\{"name": "([^"]+)", "arguments": (.*)\}\n</tool_call>\n?')


def ask(server, task, **fields):
    reply = server.chat("", messages=task["messages"], tools=task["tools"], temperature=0, max_tokens=96, **fields)
    assert reply.status == 200, reply.body
    return reply.json["choices"][0]


def plain_calls(message):
    """Without ids, which are new in every request."""
    calls = [call["function"] for call in message.get("tool_calls", [])]
    for call in message.get("tool_calls", []):
        assert call["type"] == "function" and re.fullmatch(r"call_[0-9A-Za-z]{20}", call["id"])
        assert set(call) == {"id", "type", "function"} and set(call["function"]) == {"name", "arguments"}
    assert len({call["id"] for call in message.get("tool_calls", [])}) == len(calls)
    return calls


def test_the_text_split_is_the_text(server):
    called = 0
    for task in CALLS:
        raw = ask(server, task, parse_tool_calls=False)
        assert raw["finish_reason"] in ("stop", "length") and "tool_calls" not in raw["message"]
        split = ask(server, task)
        wanted = [{"name": n, "arguments": a} for n, a in CALL.findall(raw["message"]["content"])]
        assert plain_calls(split["message"]) == wanted, raw
        for call in wanted:
            assert isinstance(json.loads(call["arguments"]), dict)
        if wanted:
            called += 1
            assert split["finish_reason"] == "tool_calls"
            rest = CALL.sub("", raw["message"]["content"]).strip()
            assert (split["message"]["content"] or "") == rest
            assert rest or split["message"]["content"] is None
    assert called >= len(CALLS) // 2


def test_a_stream_joined_is_the_message(server):
    for task in CALLS[:6]:
        whole = ask(server, task)
        _, events = server.stream("/v1/chat/completions", {
            "messages": task["messages"], "tools": task["tools"], "temperature": 0, "max_tokens": 96,
            "stream_options": {"include_usage": True}})
        content, calls, finish = "", [], None
        for event in events[:-1]:
            for choice in event["choices"]:
                assert finish is None
                delta, finish = choice["delta"], choice["finish_reason"]
                content += delta.get("content") or ""
                for call in delta.get("tool_calls", []):
                    if call["index"] == len(calls):
                        calls.append({"id": call["id"], "type": call["type"], "function": dict(call["function"])})
                    else:
                        assert call["index"] == len(calls) - 1 and set(call) == {"index", "function"}
                        calls[-1]["function"]["arguments"] += call["function"]["arguments"]
        assert content == (whole["message"]["content"] or "") and finish == whole["finish_reason"]
        assert plain_calls({"tool_calls": calls}) == plain_calls(whole["message"])
        assert events[-2]["usage"]["completion_tokens"] > 0


def test_choices_have_ids_of_their_own(server):
    task = CALLS[0]
    reply = server.chat("", messages=task["messages"], tools=task["tools"], temperature=0, max_tokens=96, n=3)
    ids = [call["id"] for choice in reply.json["choices"] for call in choice["message"].get("tool_calls", [])]
    assert len(ids) == 3 == len(set(ids))


def test_one_call_at_most(server):
    for task in CALLS[:4]:
        choice = ask(server, task, parallel_tool_calls=False)
        assert len(plain_calls(choice["message"])) <= 1


def test_histories_are_rendered_as_the_model_was_taught(server):
    """tool_calls with arguments as a string, as clients send back what they got."""
    written = next(task for task in CALLS if any("<tool_call>" in m["content"] for m in task["messages"]))
    called = json.loads(json.dumps(written["messages"]))
    n = 0
    for message in called:
        found = CALL.fullmatch(message["content"])
        if message["role"] == "assistant" and found:
            message["content"] = None
            message["tool_calls"] = [{"id": f"call_{n}", "type": "function",
                                      "function": {"name": found[1], "arguments": found[2]}}]
            n += 1
        elif message["role"] == "tool":
            message["tool_call_id"] = f"call_{n - 1}"
    assert n > 0
    prompts = [server.post("/apply-template", {"messages": m, "tools": written["tools"]}).json["prompt"]
               for m in (written["messages"], called)]
    assert prompts[0] == prompts[1]


@pytest.mark.parametrize("fields, field", [
    ({"tools": [WEATHER, WEATHER]}, "tools[1].function"),
    ({"tools": [{**WEATHER, "type": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"type": "function", "function": {"name": "a/b"}}]}, "tools[0].function.name"),
    ({"tools": [WEATHER], "tool_choice": "required"}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "get_time"}}}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"reasoning_format": "xml"}, "reasoning_format"),
])
def test_refused_by_name(server, fields, field):
    reply = server.chat("Hi", max_tokens=1, **fields)
    assert reply.status == 400 and reply.error["param"] == field, reply.body


def run_with(tmp_path, template, *arguments):
    (tmp_path / "t.jinja").write_text(template)
    return Server("--chat-template", str(tmp_path / "t.jinja"), *arguments)


def test_a_template_without_tools_refuses_them(tmp_path):
    server = run_with(tmp_path, "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}")
    try:
        refused = server.chat("Hi", max_tokens=1, tools=[WEATHER])
        assert refused.status == 400 and refused.error["param"] == "tools"
        assert "does not show tools" in refused.error["message"]
        assert server.chat("Hi", max_tokens=1, tools=[WEATHER], tool_choice="none").status == 200
        assert any("tools=none reasoning=none" in line for line in server.lines)
    finally:
        server.stop()


def test_a_prompt_that_opens_the_block_of_reasoning(tmp_path):
    """Whatever the demo model says behind <think> is thought until it closes it, which it never does."""
    template = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
                "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}{# </think> #}")
    server = run_with(tmp_path, template)
    try:
        assert any("reasoning=think" in line for line in server.lines)
        fields = {"max_tokens": 12, "temperature": 0, "ignore_eos": True}
        split = server.chat("What is 2 plus 3?", **fields).json["choices"][0]["message"]
        raw = server.chat("What is 2 plus 3?", reasoning_format="none", **fields).json["choices"][0]["message"]
        assert "reasoning_content" not in raw and raw["content"]
        assert split["content"] == "" and split["reasoning_content"].strip() == raw["content"].strip()
    finally:
        server.stop()


@pytest.mark.parametrize("flag", ["--tool-parser", "--reasoning-parser"])
def test_unknown_parsers_are_refused_at_start(flag):
    done = subprocess.run([binary(), "serve", "--port", "0", flag, "own"], capture_output=True, text=True, timeout=600)
    assert done.returncode != 0 and f"{flag} must be one of auto, none" in done.stderr and "got own" in done.stderr


def test_the_official_client(server):
    openai = pytest.importorskip("openai", reason="the package openai is not installed")
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none")
    task = CALLS[0]
    fields = dict(model=server.get("/v1/models").json["data"][0]["id"], messages=task["messages"], tools=task["tools"],
                  temperature=0, max_tokens=96)
    whole = client.chat.completions.create(**fields).choices[0]
    assert whole.finish_reason == "tool_calls" and whole.message.tool_calls[0].function.name
    with client.chat.completions.stream(**fields) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion().choices[0]
    assert "tool_calls.function.arguments.delta" in kinds and "tool_calls.function.arguments.done" in kinds
    assert [(c.function.name, c.function.arguments) for c in final.message.tool_calls] == \
        [(c.function.name, c.function.arguments) for c in whole.message.tool_calls]
    # its answer goes back as it came
    messages = task["messages"] + [whole.message.model_dump(exclude_none=True),
                                   {"role": "tool", "tool_call_id": whole.message.tool_calls[0].id, "content": "{}"}]
    again = client.chat.completions.create(**{**fields, "messages": messages})
    assert again.choices[0].finish_reason in ("stop", "length", "tool_calls")
