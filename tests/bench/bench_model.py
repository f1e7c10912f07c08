#!/usr/bin/env python3
"""The limits of decode and prefill on `dummy:llama-3.2-1b --weights int4`, from `nibble bench --json`:
shares of this machine's streaming bandwidth and int8 peak, both measured in the same run."""
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / "build/release/nibble"
failures = 0


def report(name, value, limit):
    global failures
    good = value >= limit
    failures += not good
    print(f"{name:56s} {value:8.3f}  limit >= {limit:g}  {'ok' if good else 'MISSED'}", flush=True)


def run(*arguments):
    done = subprocess.run([BINARY, "bench", "dummy:llama-3.2-1b", "--weights", "int4", "--json", *arguments],
                          capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def cases(result, kind, key):
    return {c[key]: c for c in result["cases"] if c["kind"] == kind}


def main():
    plain = run()
    print(plain["backend"])
    decode = cases(plain, "decode", "batch")
    report("decode, 1 sequence: share of streaming bandwidth", decode[1]["share"], 0.80)
    for batch, limit in ((4, 3.0), (16, 5.0)):
        report(f"decode, {batch} sequences: rate over that of one",
               decode[batch]["tokens_per_s"] / decode[1]["tokens_per_s"], limit)
    for rows, case in cases(plain, "prefill", "rows").items():
        report(f"prefill, {rows} rows: share of the int8 peak", case["share"], 0.45)
    deep = cases(run("--depth", "2048"), "decode", "batch")
    report("decode, 1 sequence, 2048 tokens: share of bandwidth", deep[1]["share"], 0.70)
    print("0 failed" if not failures else f"{failures} failed")
    return failures != 0


if __name__ == "__main__":
    sys.exit(main())
