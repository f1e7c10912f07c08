"""Tokenizer files by the command line, chat templates by file: the small sets of tests/oracle, whose ids come from the
`tokenizers` library."""
import gzip
import json
import os
import subprocess

import pytest

from conftest import ROOT, SLOW, Server, binary

SETS = ROOT / "tests" / "oracle" / "tokenizers"
KINDS = ["bpe_llama3_ignore_merges", "spm_gemma", "spm_llama2_prepend", "spm_metaspace_first_phi3", "unigram_t5_nfkc",
         "wordpiece_bert_uncased"]


def unpack(folder, name, *files):
    for file in files:
        (folder / file).write_bytes(gzip.decompress((SETS / name / f"{file}.gz").read_bytes()))


def cases(name):
    return [json.loads(line) for line in gzip.decompress((SETS / name / "cases.jsonl.gz").read_bytes()).splitlines()]


def tokenize(*arguments, lines=None):
    return subprocess.run([binary(), "tokenize", *map(str, arguments)], input=lines, capture_output=True, text=True,
                          timeout=60 * SLOW)


def ids_of(path, texts, *flags):
    lines = "".join(json.dumps(text, ensure_ascii=i % 2 == 0) + "\n" for i, text in enumerate(texts))
    done = tokenize(path, "--jsonl", "-", *flags, lines=lines)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("name", KINDS)
def test_a_line_of_ids_for_every_line_of_text(tmp_path, name):
    unpack(tmp_path, name, "tokenizer.json")
    rows = cases(name)
    texts = [row["text"] for row in rows]
    assert any("\0" in text for text in texts)
    assert ids_of(tmp_path, texts) == [row["ids"] for row in rows]
    assert ids_of(tmp_path / "tokenizer.json", texts, "--no-special") == [row["ids_no_special"] for row in rows]


def test_a_sentencepiece_file_alone_and_in_a_folder(tmp_path):
    unpack(tmp_path, "spm_llama2_prepend", "tokenizer.model")
    rows = cases("spm_llama2_prepend")
    texts = [row["text"] for row in rows]
    assert ids_of(tmp_path, texts) == [row["ids"] for row in rows]
    other = tmp_path / "renamed.model"
    os.rename(tmp_path / "tokenizer.model", other)
    assert ids_of(other, texts, "--no-special") == [row["ids_no_special"] for row in rows]


def test_which_file_counts(tmp_path):
    """tokenizer.json, tekken.json, tokenizer.model, *.tiktoken: the first there is."""
    (tmp_path / "b.tiktoken").write_text("YQ== 0\n")
    assert "b.tiktoken: a tiktoken file of 1 tokens" in tokenize(tmp_path, "a").stderr
    (tmp_path / "a.tiktoken").write_text("YQ== 0\nYg== 1\n")
    assert "a.tiktoken: a tiktoken file of 2 tokens" in tokenize(tmp_path, "a").stderr
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x01")
    assert "tokenizer.model: field 1 at byte 0" in tokenize(tmp_path, "a").stderr
    (tmp_path / "tekken.json").write_text("[]")
    assert "tekken.json: no tekken file" in tokenize(tmp_path, "a").stderr
    unpack(tmp_path, "bpe_gpt2", "tokenizer.json")
    assert tokenize(tmp_path, "a").returncode == 0
    (tmp_path / "tokenizer_config.json").write_text("{")  # one that cannot be read costs only itself
    assert tokenize(tmp_path, "a").returncode == 0


@pytest.mark.parametrize("line, words", [('"a', "not a JSON string"), ("a", "not a JSON string"), ('"a" b', "not a JSON"),
                                         ('"\\x"', "not a JSON string"), ('"\\ud800"', "not a JSON string"),
                                         ('"\\udc00\\ud800"', "not a JSON"), ('"\\u12g4"', "not a JSON"), ("7", "line 2")])
def test_lines_that_are_no_strings(tmp_path, line, words):
    unpack(tmp_path, "bpe_gpt2", "tokenizer.json")
    done = tokenize(tmp_path, "--jsonl", "-", lines='"a"\n' + line + "\n")
    assert done.returncode == 1 and words in done.stderr and "line 2" in done.stderr


def test_folders_without_a_tokenizer(tmp_path):
    done = tokenize(tmp_path, "a")
    assert done.returncode == 1 and "no tokenizer.json, tekken.json" in done.stderr
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert "neither a folder nor a regular file" in tokenize(fifo, "a").stderr


def serve(path):
    return Server("--chat-template", str(path))


def test_a_template_from_a_file(tmp_path):
    path = tmp_path / "own.jinja"
    path.write_text("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{{ eos_token }}")
    server = serve(path)
    try:
        messages = [{"role": "user", "content": "Hi"}]
        assert server.post("/apply-template", {"messages": messages}).json["prompt"].startswith("[user]Hi")
        assert server.chat("Hi", max_tokens=2).status == 200
    finally:
        server.process.terminate()
        server.process.wait(30 * SLOW)


@pytest.mark.parametrize("text, words, status", [
    ("{% for m in messages %}", "chat_template", None),
    ("{{ raise_exception('never') }}", "fails on one user message: never", 400),
    ("{{ messages | nosuchfilter }}", "chat_template", None),
])
def test_a_template_that_cannot_run_is_reported_at_start(tmp_path, text, words, status):
    path = tmp_path / "bad.jinja"
    path.write_text(text)
    server = serve(path)
    try:
        assert any(words in line for line in server.lines), server.lines
        refused = server.chat("Hi", max_tokens=2)
        assert refused.status == status if status else refused.status >= 400
        assert server.complete("Once upon a time", max_tokens=2).status == 200
    finally:
        server.process.terminate()
        server.process.wait(30 * SLOW)


def test_a_template_file_that_is_not_there(tmp_path):
    done = subprocess.run([binary(), "serve", "--port", "0", "--chat-template", str(tmp_path / "none")],
                          capture_output=True, text=True, timeout=60 * SLOW)
    assert done.returncode != 0 and "--chat-template" in done.stderr
