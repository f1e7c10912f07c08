"""/openapi.json and what the server takes agree: names of request fields both ways, their ranges, and the shapes of
replies. (That its paths are the routes: tests/unit/server/test_openapi.c.)"""
import json
import re

import pytest

from conftest import ROOT

DOCUMENT = json.loads((ROOT / "api/openapi.json").read_text())
SCHEMAS = DOCUMENT["components"]["schemas"]
ROUTES = {"/v1/chat/completions": ("ChatRequest", {"messages": [{"role": "user", "content": "x"}]}),
          "/v1/completions": ("CompletionRequest", {"prompt": "x"})}
# The parser's list is one for both routes; a field of the other one is known, and refused or ignored.
OWN = {"/v1/chat/completions": {"prompt"}, "/v1/completions": {"messages", "top_logprobs"}}


def resolve(schema):
    return SCHEMAS[schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema


def properties(name):
    schema = SCHEMAS[name]
    found = dict(schema.get("properties", {}))
    for part in schema.get("allOf", []) + schema.get("anyOf", []):
        found |= resolve(part).get("properties", {})
    return found


def literals():
    """Every string in api/ that could be the name of a field: wherever the tables are, what they know is among these."""
    text = "".join(path.read_text() for path in sorted((ROOT / "api").glob("*.c")))
    return set(re.findall(r'"([a-zA-Z_][a-zA-Z0-9_./-]*)"', text))


def unknown_of(server, path, body, names):
    """How many of these names, given as null, the server counts as unknown."""
    before = server.metric("nibble:unknown_fields_total")
    reply = server.post(path, {**dict.fromkeys(names), **body, "max_tokens": 1})
    assert reply.status == 200, reply.body
    return int(server.metric("nibble:unknown_fields_total") - before)


def pick(server, path, body, names, wanted):
    """Those of the names that are unknown (wanted 1) or known (0): by halves, so that few requests do."""
    names = sorted(names)
    n = unknown_of(server, path, body, names) if names else 0
    n = n if wanted else len(names) - n
    if n == 0:
        return []
    if n == len(names):
        return names
    half = len(names) // 2
    return pick(server, path, body, names[:half], wanted) + pick(server, path, body, names[half:], wanted)


def test_served_as_it_is_checked_in(server):
    reply = server.get("/openapi.json")
    assert reply.status == 200 and reply.headers["content-type"] == "application/json"
    assert reply.body == (ROOT / "api/openapi.json").read_bytes()
    assert DOCUMENT["info"]["version"] == server.get("/version").json["version"]


@pytest.mark.parametrize("path", ROUTES)
def test_described_fields_are_known(server, path):
    schema, body = ROUTES[path]
    wrong = pick(server, path, body, set(properties(schema)) - set(body) - {"max_tokens"}, 1)
    assert not wrong, f"{schema} has fields that the server does not know"


@pytest.mark.parametrize("path", ROUTES)
def test_known_fields_are_described(server, path):
    schema, body = ROUTES[path]
    names = literals() - set(properties(schema)) - OWN[path] - set(body)
    assert len(names) > 50 and "surely_no_field" not in names
    assert pick(server, path, body, {"surely_no_field", "temperature"}, 1) == ["surely_no_field"]
    missing = pick(server, path, body, names, 0)
    assert not missing, f"the server knows fields that {schema} in api/openapi.json lacks"


def test_the_other_requests_fields_are_in_the_source():
    """Their parsers count nothing: at least no described field is made up."""
    for name in ("TokenizeRequest", "DetokenizeRequest", "TemplateRequest", "StreamOptions", "Message", "TextPart",
                 "ToolCall"):
        assert set(properties(name)) - {"tool_call_id", "id"} <= literals(), name  # those two are the templates'


def numbers():
    for path, (schema, _) in ROUTES.items():
        for name, field in properties(schema).items():
            types = field.get("type")
            if types and ("number" in types or "integer" in types) and "minimum" in field:
                yield pytest.param(path, name, field, id=f"{path.rsplit('/', 2)[1]}-{name}")


@pytest.mark.parametrize("path,name,field", list(numbers()))
def test_ranges_are_the_servers(server, path, name, field):
    body = {**ROUTES[path][1], "min_tokens": 0}
    if name == "top_logprobs":
        body["logprobs"] = True
    render = path + "/render"  # everything is checked, nothing is generated
    low, high = field["minimum"], field["maximum"]
    step = 1 if "integer" in field["type"] else 0.001
    assert server.post(render, {**body, name: low}).status == 200
    for bad in [low - step] + ([high + step] if high < 2147483646 else []) + ["1", [], {}, True]:
        reply = server.post(render, {**body, name: bad})
        assert reply.status == 400 and reply.error["param"] == name, (bad, reply.body)
    if "integer" in field["type"]:
        assert server.post(render, {**body, name: low + 0.5}).error["param"] == name
    if name != "min_tokens":  # at most the context: the model's number, not the API's
        assert server.post(render, {**body, name: high}).status == 200


@pytest.mark.parametrize("path", ROUTES)
def test_fields_that_are_not_honoured_take_their_neutral_values_alone(server, path):
    schema, body = ROUTES[path]
    fields = {k: v for k, v in properties(schema).items() if v.get("description", "").startswith("known, not honoured")}
    assert len(fields) > 10
    for name, field in fields.items():
        for value in field["enum"]:
            assert server.post(path + "/render", {**body, name: value}).status == 200, (name, value)
        reply = server.post(path + "/render", {**body, name: {"x": [1]}})
        assert reply.status == 400 and reply.error["param"] == name, name


def check(schema, value, at):
    """The part of JSON Schema that the document uses."""
    schema = resolve(schema)
    for part in schema.get("allOf", []):
        check(part, value, at)
    if "anyOf" in schema:
        assert any(fits(s, value) for s in schema["anyOf"]), (at, value)
    if "const" in schema:
        assert value == schema["const"], (at, value)
    if "enum" in schema:
        assert value in schema["enum"], (at, value)
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None)}
    if "type" in schema:
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        assert any(isinstance(value, kinds[t]) and (t == "boolean" or not isinstance(value, bool)) for t in types), (at, value)
    if isinstance(value, dict):
        assert set(schema.get("required", [])) <= set(value), (at, value)
        for key, part in schema.get("properties", {}).items():
            if key in value:
                check(part, value[key], f"{at}.{key}")
    if isinstance(value, list) and "items" in schema:
        for i, item in enumerate(value):
            check(schema["items"], item, f"{at}[{i}]")


def fits(schema, value):
    try:
        check(schema, value, "")
        return True
    except AssertionError:
        return False


BODIES = {
    "ChatRequest": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2},
    "CompletionRequest": {"prompt": "x", "max_tokens": 2},
    "TokenizeRequest": {"prompt": "x"},
    "DetokenizeRequest": {"tokens": [5, 6]},
    "TemplateRequest": {"messages": [{"role": "user", "content": "x"}]},
}


@pytest.mark.parametrize("path", DOCUMENT["paths"])
def test_replies_are_as_described(server, path):
    method, operation = next(iter(DOCUMENT["paths"][path].items()))
    body = None
    if method == "post":
        request = operation["requestBody"]["content"]["application/json"]["schema"]
        body = BODIES[request["$ref"].rsplit("/", 1)[1]] if "$ref" in request else {}
        if body:
            check(request, body, "body")
    for sent, want in [(body, None)] + ([("{", "400")] if method == "post" and "400" in operation["responses"] else []):
        reply = server.request(method.upper(), path, sent)
        assert str(reply.status) in operation["responses"], (path, reply.status)
        assert want is None or str(reply.status) == want
        described = operation["responses"][str(reply.status)]
        if "$ref" in described:
            described = DOCUMENT["components"]["responses"][described["$ref"].rsplit("/", 1)[1]]
        kind = reply.headers["content-type"].split(";")[0]
        schema = described["content"][kind]["schema"]
        check(schema, reply.json if kind == "application/json" else reply.body.decode(), path)
