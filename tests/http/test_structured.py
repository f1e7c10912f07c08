"""Answers with a form: whatever ends by `stop` has it, streamed or not, and a form that is none is a 400."""
import json
import re

import jsonschema
import pytest

PATHS = ["/v1/chat/completions", "/v1/completions"]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "c"]}, "maxItems": 3},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def body_of(path, **fields):
    start = {"messages": [{"role": "user", "content": "A person, as JSON."}]} if "chat" in path else {"prompt": "Person: "}
    return {**start, "max_tokens": 200, "temperature": 1, "seed": 7, **fields}


def texts(reply):
    return [(c["message"]["content"] if "message" in c else c["text"], c["finish_reason"]) for c in reply.json["choices"]]


def streamed(server, path, body):
    out = {}
    _, events = server.stream(path, body)
    for event in events[:-1]:
        for c in event["choices"]:
            piece = c["delta"].get("content") if "delta" in c else c["text"]
            text, reason = out.get(c["index"], ("", None))
            out[c["index"]] = (text + (piece or ""), c["finish_reason"] or reason)
    return [out[i] for i in sorted(out)]


def is_person(text):
    jsonschema.validate(json.loads(text), PERSON)
    return True


def is_object(text):
    return isinstance(json.loads(text), dict)


FORMS = [
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "p", "strict": True, "schema": PERSON}}}, is_person),
    ({"response_format": {"type": "json_schema", "schema": PERSON}}, is_person),
    ({"response_format": {"type": "json_object", "schema": PERSON}}, is_person),
    ({"response_format": {"type": "json_object"}}, is_object),
    ({"structured_outputs": {"json": PERSON, "disable_any_whitespace": True}},
     lambda t: is_person(t) and json.dumps(json.loads(t), separators=(",", ":"), ensure_ascii=False).count(" ") <= t.count(" ")),
    ({"structured_outputs": {"json": json.dumps(PERSON)}}, is_person),
    ({"structured_outputs": {"json_object": True}}, is_object),
    ({"guided_json": PERSON}, is_person),
    ({"json_schema": PERSON}, is_person),
    ({"structured_outputs": {"regex": r"[A-Z][a-z]{2,8} (is|was) \d{1,3}"}},
     lambda t: re.fullmatch(r"[A-Z][a-z]{2,8} (is|was) \d{1,3}", t)),
    ({"guided_regex": r"(é|ü|字){2,5}!"}, lambda t: re.fullmatch("(é|ü|字){2,5}!", t)),
    ({"structured_outputs": {"choice": ["yes", "no", "yes, \"but\""]}}, lambda t: t in ("yes", "no", 'yes, "but"')),
    ({"guided_choice": ["red", "green"]}, lambda t: t in ("red", "green")),
    ({"grammar": 'root ::= item ("," item){1,4}\nitem ::= [a-c]{1,4} "=" [0-9]{1,2}'},
     lambda t: re.fullmatch("[a-c]{1,4}=[0-9]{1,2}(,[a-c]{1,4}=[0-9]{1,2}){1,4}", t)),
    ({"guided_grammar": 'root ::= "x" | "y" root'}, lambda t: re.fullmatch("y*x", t)),
    ({"response_format": {"type": "structural_tag", "structures": [{"begin": "<f>", "schema": PERSON, "end": "</f>"}],
                          "triggers": ["<f>"]}},
     lambda t: all(is_person(part.split("</f>")[0]) and "</f>" in part for part in t.split("<f>")[1:])),
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("form,good", FORMS, ids=[json.dumps(f)[:40] for f, _ in FORMS])
def test_what_stops_has_the_form(server, path, form, good):
    n_stopped = 0
    for seed in range(3):
        body = body_of(path, n=2, seed=seed, **form)
        reply = server.post(path, body)
        assert reply.status == 200, reply.json
        whole = texts(reply)
        assert streamed(server, path, body) == whole
        for text, reason in whole:
            assert reason in ("stop", "length")
            n_stopped += reason == "stop"
            assert reason == "length" or good(text), text
    assert n_stopped > 0 or "structural_tag" in json.dumps(form) or "json_object" in json.dumps(form)


@pytest.mark.parametrize("more", [
    {"logprobs": True, "top_logprobs": 3}, {"ignore_eos": True}, {"min_tokens": 5}, {"repetition_penalty": 1.3},
    {"logit_bias": {"5": -100}}, {"top_k": 1}, {"samplers": ["top_k", "temperature"]}, {"stop": ["age"]},
    {"mirostat": 2}, {"return_token_ids": True}], ids=str)
def test_with_other_fields(server, more):
    body = body_of(PATHS[0], n=2, guided_json=PERSON, **more)
    reply = server.post(PATHS[0], body)
    assert reply.status == 200, reply.json
    assert streamed(server, PATHS[0], body) == texts(reply)
    for text, reason in texts(reply):
        assert reason == "length" or "stop" in more or is_person(text)


def test_tokens_are_counted(server):
    reply = server.post(PATHS[1], body_of(PATHS[1], guided_regex="[ab]{5}c", return_token_ids=True))
    choice = reply.json["choices"][0]
    assert choice["finish_reason"] == "stop" and choice["stop_reason"] is None
    assert reply.json["usage"]["completion_tokens"] == len(choice["token_ids"])
    assert server.post("/detokenize", {"tokens": choice["token_ids"]}).json["content"] == choice["text"]


def test_without_a_token_left(server):
    """The request alone ends, with an error; the server is as it was."""
    plain = body_of(PATHS[1], temperature=0, max_tokens=20)
    before = server.post(PATHS[1], plain).json["choices"]
    vocab = server.get("/props").json["default_generation_settings"]["n_ctx"]
    assert vocab > 0
    a = server.post("/tokenize", {"content": "q"}).json["tokens"]
    reply = server.post(PATHS[1], body_of(PATHS[1], guided_regex="q", bad_words=["q"]))
    assert reply.status in (200, 503), reply.json
    assert reply.status == 503 and "no token is left" in reply.error["message"], (a, reply.json)
    assert server.get("/health").status == 200
    assert server.post(PATHS[1], plain).json["choices"] == before


BAD = [
    ({"response_format": {"type": "yaml"}}, "response_format.type", "json_schema"),
    ({"response_format": {}}, "response_format.type", "none"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "schema"),
    ({"structured_outputs": {"json": False}}, "structured_outputs.json", ""),
    ({"structured_outputs": {"lark": "x"}}, "structured_outputs.lark", "not supported"),
    ({"structured_outputs": {"regex": "a", "json": {}}}, "structured_outputs.json", "cannot be combined"),
    ({"guided_choice": ["a", 1]}, "guided_choice[1]", "string"),
    ({"guided_json": {"type": "thing"}}, "guided_json", "type"),
    ({"guided_json": {"not": {}}}, "guided_json", "not"),
    ({"guided_json": "{"}, "guided_json", ""),
    ({"guided_json": {"$ref": "#/$defs/none"}}, "guided_json", "$ref"),
    ({"guided_json": False}, "guided_json", ""),
    ({"guided_regex": "(" * 60000}, "guided_regex", ""),
    ({"guided_regex": "(?=a)b"}, "guided_regex", ""),
    ({"grammar": "root ::= root \"a\""}, "grammar", ""),
    ({"grammar": "start ::= \"a\""}, "grammar", "root"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"minLength": -1}}}},
     "response_format.json_schema.schema", "minLength"),
]


@pytest.mark.parametrize("form,field,word", BAD, ids=[f + str(i) for i, (_, f, _) in enumerate(BAD)])
def test_a_form_that_is_none(server, form, field, word):
    for path in PATHS:
        for stream in (False, True):
            reply = server.post(path, body_of(path, stream=stream, **form))
            assert reply.status == 400, reply.json
            assert reply.error["param"] == field and word in reply.error["message"], reply.json
    assert server.get("/health").status == 200
