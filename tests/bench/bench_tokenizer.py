#!/usr/bin/env python3
"""nibble's tokenizer against the Rust `tokenizers` package: one thread each, same text, same run.

    bench_tokenizer.py BENCH_PROGRAM TOKENIZER.JSON[.gz] TEXT... [--limit 3.0]
    bench_tokenizer.py BENCH_PROGRAM TOKENIZER.MODEL[.gz] TEXT... [--limit 2.0]     (against sentencepiece)

TEXT files (UTF-8) are encoded as documents (paragraphs) and as one long text each. Both sides take
turns, the best of REPEATS runs counts on both, ids must be equal. Exit status 1 below the limit; 0
with the reason when the package cannot be imported.
"""
import argparse
import gzip
import os
import re
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
REPEATS = 5


def fnv(ids):
    h = 2166136261
    for i in ids:
        h = ((h ^ i) * 16777619) & 0xFFFFFFFF
    return h


class Sentencepiece:
    """sentencepiece's own package in the other one's clothes; BOS as nibble adds it."""

    def __init__(self, path):
        import sentencepiece

        self.version = f"sentencepiece {sentencepiece.__version__}"
        self.model = sentencepiece.SentencePieceProcessor(model_file=path)
        self.bos, self.eos = self.model.bos_id() >= 0, self.model.bos_id() < 0

    def encode(self, text):
        self.ids = self.model.encode(text, add_bos=self.bos, add_eos=self.eos)
        return self


class Tokenizers:
    def __init__(self, path):
        import tokenizers

        self.version = f"tokenizers {tokenizers.__version__}"
        self.encode = tokenizers.Tokenizer.from_file(path).encode


def rust(tokenizer, documents):
    best = None
    for _ in range(REPEATS):
        spent = 0.0
        ids = []
        for document in documents:
            start = time.perf_counter()
            encoding = tokenizer.encode(document)
            spent += time.perf_counter() - start
            ids.extend(encoding.ids)
        best = spent if best is None else min(best, spent)
    return best, ids


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("tokenizer")
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--limit", type=float, default=3.0)
    args = parser.parse_args()
    model = ".model" in os.path.basename(args.tokenizer)
    opener = gzip.open if args.tokenizer.endswith(".gz") else open
    with opener(args.tokenizer, "rb") as file:
        json = file.read()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "tokenizer.model" if model else "tokenizer.json")
        with open(path, "wb") as file:
            file.write(json)
        start = time.perf_counter()
        try:
            theirs = Sentencepiece(path) if model else Tokenizers(path)
        except ImportError as error:
            print(f"bench_tokenizer: skipped, the package is not there: {error}")
            return 0
        theirs_load = time.perf_counter() - start
        ok = True
        for text_path in args.texts:
            with open(text_path, encoding="utf-8", newline="") as file:
                text = file.read()
            paragraphs = [p for p in re.split(r"(?<=\n\n)", text) if p]
            for kind, documents in (("documents", paragraphs), ("one text", [text])):
                packed = os.path.join(folder, "texts")
                with open(packed, "wb") as file:
                    for document in documents:
                        raw = document.encode()
                        file.write(b"%d\n" % len(raw) + raw)
                output = subprocess.run([args.program, path, str(REPEATS), packed], check=True,
                                        capture_output=True, text=True).stdout.split("\n")
                load = float(output[0].split()[2])
                _, n_bytes, n_ids, digest, best, _ = output[1].split()
                theirs_best, ids = rust(theirs, documents)
                same = len(ids) == int(n_ids) and f"{fnv(ids):08x}" == digest
                ratio = theirs_best / float(best)
                good = same and ratio >= args.limit
                ok = ok and good
                print(f"{os.path.basename(text_path)} {kind} ({len(documents)}): "
                      f"{int(n_bytes) / 1e6:.2f} MB, {n_ids} ids, "
                      f"nibble {int(n_bytes) / 1e6 / float(best):.1f} MB/s, "
                      f"{theirs.version} "
                      f"{int(n_bytes) / 1e6 / theirs_best:.1f} MB/s, "
                      f"ratio {ratio:.1f} (limit {args.limit}), "
                      f"ids {'equal' if same else 'DIFFERENT'}: {'ok' if good else 'FAILED'}")
        print(f"load: nibble {load * 1e3:.0f} ms, {theirs.version} {theirs_load * 1e3:.0f} ms")
        return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
