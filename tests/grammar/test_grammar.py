"""Grammars against what others say they mean: python-jsonschema, re.fullmatch.

Random schemas and expressions with fixed seeds; texts are drawn from allowed tokens alone
(grammar_driver.c). Everything that is accepted must be valid; what the dialect has in common with
Python's re is accepted exactly when Python accepts it.
"""
import json
import os
import random
import re
import subprocess

import jsonschema
import pytest

BUILD = os.environ.get("NIBBLE_BUILD", os.path.join(os.path.dirname(__file__), "../../build/dev"))


class Driver:
    def __init__(self):
        self.process = subprocess.Popen([os.path.join(BUILD, "tests/grammar_driver")],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        encoding="utf-8", errors="surrogateescape")

    def ask(self, kind, source, texts=(), seeds=0, tokens=512, compact=False):
        line = json.dumps({"kind": kind, "source": source, "texts": list(texts), "seeds": seeds,
                           "tokens": tokens, "compact": compact}, ensure_ascii=False)
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the driver died on %s" % line
        return json.loads(answer)

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(timeout=60) == 0


@pytest.fixture(scope="module")
def driver():
    it = Driver()
    yield it
    it.close()


NAMES = ["a", "b", "id", "name", "kind", "é", "x y", 'q"t', "S_1", "list"]
TEXTS = ["", "a", "abc", "foo", "é", 'x"y', "line\nbreak", "back\\slash", "a/b", "2024-02-28", "AB12"]
PATTERNS = ["^a+$", "b", "^[a-z]{2,5}$", "\\d{3}", "^(foo|bar)$", "^[^\\s]+$", "[A-Z]{2}\\d", "^x?y*$", "é|中",
            "^\\S+@\\S+$", "\\.", "^.{2,4}$"]
KEY_PATTERNS = ["^S_", "^[a-c]+$", "x", "^\\d+$"]
FORMATS = ["date", "time", "date-time", "uuid", "ipv4", "ipv6", "email", "hostname", "uri", "duration"]


class Schemas:
    """Random schemas of the keyword list of host/grammar/schema.h."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.defs = {}

    def maybe(self, chance=0.4):
        return self.rng.random() < chance

    def string(self):
        rng, schema = self.rng, {"type": "string"}
        kind = rng.randrange(6)
        if kind == 0:
            schema["pattern"] = rng.choice(PATTERNS)
            if self.maybe():
                schema["maxLength"] = rng.randrange(4, 30)
        elif kind == 1:
            schema["format"] = rng.choice(FORMATS)
        elif kind == 2:
            schema["minLength"] = rng.randrange(0, 6)
            if self.maybe(0.7):
                schema["maxLength"] = schema["minLength"] + rng.randrange(0, 40)
        elif kind == 3:
            schema["maxLength"] = rng.choice([0, 1, 5, 100, 3000])
        return schema

    def number(self):
        rng = self.rng
        schema = {"type": rng.choice(["integer", "number"])}
        if self.maybe(0.3):
            return schema
        low = rng.choice([-1000, -7, -1, 0, 1, 3, 10, 99, 100, 12345, 10 ** 14])
        if schema["type"] == "number":
            low = rng.choice([low, low + 0.5, low / 8, -0.001, 1e-7, 0.1, 3.14159])
        if self.maybe(0.7):
            schema[rng.choice(["minimum", "exclusiveMinimum"])] = low
        if self.maybe(0.6):
            schema[rng.choice(["maximum", "exclusiveMaximum"])] = low + rng.choice([2, 3, 50, 1000, 10 ** 6])
        if schema["type"] == "integer" and self.maybe(0.25):
            schema["multipleOf"] = rng.choice([1, 2, 3, 5, 7, 10, 25])
            schema.pop("exclusiveMaximum", None)
            schema.pop("maximum", None)
        return schema

    def enum(self):
        rng = self.rng
        values = TEXTS + [0, 1, -1, 2.5, 1e10, 10 ** 17, True, False, None, [], {}, [1, [2]], {"k": {"z": "é"}}]
        if self.maybe(0.3):
            return {"const": rng.choice(values)}
        return {"enum": rng.sample(values, rng.randrange(1, 6))}

    def array(self, depth):
        rng, schema = self.rng, {"type": "array"}
        if self.maybe(0.8):
            schema["items"] = self.any(depth - 1)
        if self.maybe(0.2):
            schema["prefixItems"] = [self.any(depth - 1) for _ in range(rng.randrange(1, 4))]
        if self.maybe(0.4):
            schema["minItems"] = rng.randrange(0, 3)
        if self.maybe(0.5):
            schema["maxItems"] = schema.get("minItems", 0) + rng.randrange(0, 5)
        if self.maybe(0.1) and "items" in schema:
            schema["items"] = False
            schema.pop("minItems", None)
        return schema

    def object(self, depth):
        rng, schema = self.rng, {"type": "object"}
        names = rng.sample(NAMES, rng.randrange(0, 5))
        if names:
            schema["properties"] = {name: self.any(depth - 1) for name in names}
            if self.maybe(0.7):
                schema["required"] = rng.sample(names, rng.randrange(0, len(names) + 1))
        if self.maybe(0.5):
            schema["additionalProperties"] = rng.choice([False, False, True, None])
            if schema["additionalProperties"] is None:
                schema["additionalProperties"] = self.any(depth - 1)
        if self.maybe(0.15):
            schema["patternProperties"] = {p: self.any(depth - 1) for p in rng.sample(KEY_PATTERNS, rng.randrange(1, 3))}
        if self.maybe(0.1):
            schema["propertyNames"] = {"pattern": rng.choice(["^[a-zS_0-9]*$", "[a-z]"])}
            schema.pop("required", None)
        if self.maybe(0.15):
            schema["minProperties"] = rng.randrange(0, len(names) + 1)
        if self.maybe(0.15):
            schema["maxProperties"] = max(schema.get("minProperties", 0), len(schema.get("required", []))) + rng.randrange(0, 3)
        return schema

    def union(self, depth):
        rng = self.rng
        kind = rng.randrange(4)
        if kind == 0:
            return {"anyOf": [self.any(depth - 1) for _ in range(rng.randrange(1, 4))]}
        if kind == 1:
            return {"oneOf": rng.sample([{"type": "null"}, self.string(), self.number(), self.array(depth - 1), {"type": "boolean"}], 3)}
        if kind == 2:
            branches = []
            for value in rng.sample(["cat", "dog", "fish"], 2):
                branch = self.object(depth - 1)
                branch.setdefault("properties", {})["kind"] = {"const": value}
                branch["required"] = sorted(set(branch.get("required", [])) | {"kind"})
                branch.pop("propertyNames", None)
                branch.pop("maxProperties", None)
                branches.append(branch)
            return {"oneOf": branches}
        first = self.object(depth - 1)
        second = {"properties": {name: self.any(0) for name in rng.sample(NAMES, 2)}}
        return {"allOf": [first, second]} if self.maybe() else dict(first, anyOf=[second, {"maxProperties": 9}])

    def any(self, depth):
        rng = self.rng
        kinds = [self.string, self.number, self.enum, lambda: {"type": "boolean"}, lambda: {"type": "null"},
                 lambda: {"type": rng.sample(["string", "integer", "null", "boolean", "number"], 2)}]
        if depth > 0:
            kinds += [lambda: self.array(depth)] * 3 + [lambda: self.object(depth)] * 4 + [lambda: self.union(depth)] * 2
            kinds += [lambda: {}, lambda: True]
            if self.maybe(0.15):
                name = "d%d" % len(self.defs)
                self.defs[name] = True
                self.defs[name] = self.any(depth - 1)
                return {"$ref": "#/$defs/" + name}
        schema = rng.choice(kinds)()
        if isinstance(schema, dict) and self.maybe(0.2):
            schema = dict(schema, title="T", description="what it is", default=None)
        return schema

    def root(self):
        schema = self.any(3)
        if self.maybe(0.2):
            schema = {"type": "object", "properties": {"value": schema, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
                      "required": ["value"]}
        if self.defs:
            schema = dict(schema, **{"$defs": self.defs}) if isinstance(schema, dict) else {"$defs": self.defs}
        return schema


def some_texts(rng, samples):
    """Samples as they are and changed a little: most of these are not valid."""
    texts = ['{}', '[]', '""', '0', 'null', '{"a":1}', ' {}', '{} ', '{"a":1,"a":2}', '-0', '1.0', '1e2', '"a"', 'true']
    for sample in samples:
        texts.append(sample)
        for _ in range(4):
            at = rng.randrange(len(sample) + 1)
            texts.append(sample[:at] + rng.choice(['', '"', 'a', '1', ',', '}', ']', ' ', '\\', '0', '-', '\n']) + sample[at + rng.randrange(2):])
    return texts


def test_schemas(driver):
    refused, ended, drawn, accepted = [], 0, 0, 0
    n_schemas = int(os.environ.get("NIBBLE_SCHEMAS", "500"))
    for seed in range(n_schemas):
        schema = Schemas(seed).root()
        jsonschema.Draft202012Validator.check_schema(schema)
        validator = jsonschema.Draft202012Validator(schema)
        source = json.dumps(schema, ensure_ascii=seed % 2 == 0)
        answer = driver.ask("schema", source, seeds=6, compact=seed % 3 == 0)
        if "error" in answer:
            refused.append((answer["error"], source))
            continue
        samples = [s["text"] for s in answer["samples"] if s["ended"]]
        drawn += len(answer["samples"])
        ended += len(samples)
        texts = some_texts(random.Random(seed), samples[:3])
        answers = driver.ask("schema", source, texts=texts)["accepts"]
        for text in samples + [t for t, a in zip(texts, answers) if a]:
            accepted += 1
            value = json.loads(text)
            problem = jsonschema.exceptions.best_match(validator.iter_errors(value))
            assert problem is None, (seed, source, text, problem.message)
    for error, source in refused:
        print(error, source[:300])
    print("%d of %d schemas refused; %d of %d samples ended; %d texts valid" % (len(refused), n_schemas, ended, drawn, accepted))
    empty = [r for r in refused if "matches no text" in r[0]]
    assert len(refused) - len(empty) <= n_schemas * 0.05
    assert len(empty) <= n_schemas * 0.05
    assert ended >= drawn * 0.9


class Regexes:
    def __init__(self, seed):
        self.rng = random.Random(seed)

    def atom(self, depth):
        rng = self.rng
        kind = rng.randrange(8 if depth > 0 else 6)
        if kind < 2:
            return rng.choice(["a", "b", "ab", "c", "\\.", "-", "é", "中", "\\n", "\\x41", "\\u00e9"])
        if kind == 2:
            return rng.choice([".", "\\d", "\\w", "\\s", "\\S", "[^a]"])
        if kind < 6:
            return "[" + rng.choice(["", "^"]) + "".join(rng.sample(["a", "b-c", "\\d", "é", "_", "\\s", "中-文", "."], rng.randrange(1, 4))) + "]"
        body = self.expression(depth - 1)
        return rng.choice(["(%s)", "(?:%s)", "(?P<n%d>%%s)" % rng.randrange(10 ** 9)]) % body

    def branch(self, depth):
        parts = []
        for _ in range(self.rng.randrange(0, 4)):
            parts.append(self.atom(depth))
            if self.rng.random() < 0.5 and not (parts[-1] in ("ab",)):
                parts.append(self.rng.choice(["*", "+", "?", "{2}", "{1,3}", "{,2}", "{2,}", "*?", "+?"]))
        return "".join(parts)

    def expression(self, depth):
        return "|".join(self.branch(depth) for _ in range(self.rng.choice([1, 1, 1, 2, 3])))


ALPHABET = ["a", "b", "c", "é", "中", "文", "1", "_", ".", "-", " ", "\n", "A"]


def test_regexes(driver):
    matched = compared = 0
    for seed in range(300):
        rng = random.Random(seed)
        expression = Regexes(seed).expression(2)
        compiled, narrow = re.compile(expression), re.compile(expression, re.ASCII)
        texts = ["".join(rng.choice(ALPHABET) for _ in range(rng.randrange(6))) for _ in range(40)]
        answer = driver.ask("regex", expression, texts=texts, seeds=6, tokens=80)
        assert "error" not in answer or "matches no text" in answer["error"], (expression, answer)
        if "error" in answer:
            continue
        for sample in answer["samples"]:
            if sample["ended"]:
                assert compiled.fullmatch(sample["text"]), (expression, sample["text"])
                matched += 1
        for text, accepted in zip(texts, answer["accepts"]):
            assert accepted == bool(narrow.fullmatch(text)), (expression, text)
            compared += 1
    print("%d samples match, %d texts alike" % (matched, compared))
    assert matched > 700 and compared > 10000


def test_patterns_search(driver):
    """JSON Schema's pattern is a search, over what the string means, not over how it is written."""
    for seed in range(150):
        rng = random.Random(seed)
        pattern = Regexes(seed).expression(1)
        if rng.random() < 0.3:
            pattern = "^(?:" + pattern + ")$"
        same = re.sub(r"\$$", r"\\Z", pattern)  # Python's $ also matches in front of a last line feed
        compiled, narrow = re.compile(same), re.compile(same, re.ASCII)
        texts = ["".join(rng.choice(ALPHABET + ['"', "\\", "\t"]) for _ in range(rng.randrange(6))) for _ in range(30)]
        source = json.dumps({"type": "string", "pattern": pattern})
        answer = driver.ask("schema", source, texts=[json.dumps(t, ensure_ascii=False) for t in texts], seeds=4)
        assert "error" not in answer or "matches no text" in answer["error"], (pattern, answer)
        if "error" in answer:
            continue
        for sample in answer["samples"]:
            if sample["ended"]:
                assert compiled.search(json.loads(sample["text"])), (pattern, sample["text"])
        for text, accepted in zip(texts, answer["accepts"]):
            assert accepted == bool(narrow.search(text)), (pattern, text)


def test_integers(driver):
    rng = random.Random(3)
    for _ in range(100):
        low = rng.choice([-1, 1]) * rng.randrange(10 ** rng.randrange(1, 12))
        high = low + rng.randrange(10 ** rng.randrange(1, 12))
        schema = {"type": "integer", "minimum": low, "maximum": high}
        if rng.random() < 0.3:
            schema["multipleOf"] = rng.choice([2, 3, 7, 10, 12, 100])
        near = {v + d for v in (low, high, 0, 10 ** rng.randrange(12)) for d in range(-3, 4)}
        near |= {rng.randrange(low, high + 1) for _ in range(20)}
        answer = driver.ask("schema", json.dumps(schema), texts=[str(v) for v in near])
        if "error" in answer:
            assert not any(v % schema["multipleOf"] == 0 for v in range(low, min(high, low + 1000) + 1))
            continue
        for value, accepted in zip(near, answer["accepts"]):
            assert accepted == (low <= value <= high and value % schema.get("multipleOf", 1) == 0), (schema, value)


def test_numbers(driver):
    rng = random.Random(4)
    for _ in range(150):
        schema = {"type": "number"}
        low = round(rng.uniform(-10, 10) * 10 ** rng.randrange(-3, 6), rng.randrange(8))
        high = low + abs(round(rng.uniform(0, 5) * 10 ** rng.randrange(-3, 6), rng.randrange(8)))
        if rng.random() < 0.8:
            schema[rng.choice(["minimum", "exclusiveMinimum"])] = low
        if rng.random() < 0.8:
            schema[rng.choice(["maximum", "exclusiveMaximum"])] = high
        texts = set()
        for value in [low, high, 0.0, rng.uniform(low, high), rng.uniform(low, high), low - 1, high + 1]:
            for places in range(9):
                texts.add("%.*f" % (places, value))
        texts = sorted(t for t in texts if not re.fullmatch(r"-0(\.0*)?", t))
        answer = driver.ask("schema", json.dumps(schema), texts=texts, seeds=5)
        valid = jsonschema.Draft202012Validator(schema).is_valid
        if "error" in answer:
            assert "matches no text" in answer["error"] and not any(valid(json.loads(t)) for t in texts)
            continue
        for sample in answer["samples"]:
            assert sample["ended"] is False or valid(json.loads(sample["text"])), (schema, sample)
        for text, accepted in zip(texts, answer["accepts"]):
            assert accepted == valid(json.loads(text)), (schema, text)


def test_objects(driver):
    """Any JSON object, and every one that Python writes."""
    rng = random.Random(5)

    def value(depth):
        kind = rng.randrange(7 if depth else 5)
        if kind == 5:
            return [value(depth - 1) for _ in range(rng.randrange(4))]
        if kind == 6:
            return {rng.choice(TEXTS): value(depth - 1) for _ in range(rng.randrange(4))}
        return [None, True, rng.randrange(-10 ** 9, 10 ** 9), round(rng.uniform(-9, 9), 5), rng.choice(TEXTS)][kind]

    for _ in range(60):
        it = {"k": value(3)}
        texts = [json.dumps(it), json.dumps(it, indent=2), json.dumps(it, separators=(",", ":")), json.dumps(it, ensure_ascii=False),
                 json.dumps(it) + "x", json.dumps(it)[:-1]]
        assert driver.ask("object", "", texts=texts)["accepts"] == [True] * 4 + [False] * 2
    for sample in driver.ask("object", "", seeds=100)["samples"]:
        if sample["ended"]:
            assert isinstance(json.loads(sample["text"]), dict)
