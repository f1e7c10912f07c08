#!/usr/bin/env python3
"""Table of tests/coverage.sh: lines and branches of each reader, from build/coverage/merged.profdata.

A branch is one arm (true or false) of one condition as written: `a && b` has four. Not counted: what
is inside macros (CHECK, whose other arm ends the program) and the true arm of `|| err_set(...)`,
which does not exist: functions that report an error return false by definition. Lines are as
llvm-cov counts them.

    tests/coverage.py                       the table
    tests/coverage.py --missing FILE...     and each arm that nothing took, with its line
"""
import argparse
import json
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / "build/coverage"
TARGET = 95.0
ALWAYS_FALSE = tuple(name + "(" for name in (
    "err_set err_set_field json_error refuse broken unsupported wrong_type part_error no_memory load_no_memory "
    "load_unsupported jinja_syntax parse_unexpected parse_memory").split())

# Why a reader stays below the target: what no test can take.
NOTES = {
    "host/text/split_regex.c": "the rest is PCRE2's own memory running out, and a PCRE2 without JIT",
}


def measure(sources):
    """source -> (lines, lines reached, [(condition's place, taken true, taken false)])"""
    objects = []
    for source in sources:
        found = list(BUILD.glob(f"CMakeFiles/*.dir/{source}.o"))
        assert len(found) == 1, f"{source}: {len(found)} objects"
        objects += ["-object", str(found[0])]
    text = subprocess.run(["llvm-cov", "export", f"-instr-profile={BUILD}/merged.profdata", *objects[1:]],
                          check=True, capture_output=True, text=True).stdout
    result = {}
    for file in json.loads(text)["data"][0]["files"]:
        name = str(pathlib.Path(file["filename"]).resolve().relative_to(ROOT))
        lines = file["summary"]["lines"]
        arms = {}
        for row in file["branches"]:
            taken = arms.get(tuple(row[:4]), (0, 0))
            arms[tuple(row[:4])] = (taken[0] + row[4], taken[1] + row[5])
        result[name] = (lines["count"], lines["covered"], sorted(arms.items()))
    return result


def condition(text, place):
    """The condition's source on one line."""
    from_line, from_column, to_line, to_column = place
    part = text[from_line - 1:to_line]
    part[-1] = part[-1][:to_column - 1]
    part[0] = part[0][from_column - 1:]
    return " ".join(" ".join(part).split())


def branches_of(source, conditions):
    """[(line, arm, condition, times taken)]"""
    text = (ROOT / source).read_text(encoding="utf-8").splitlines()
    rows = []
    for place, taken in conditions:
        written = condition(text, place)
        for arm, times in zip(("true", "false"), taken):
            if arm == "false" or not written.startswith(ALWAYS_FALSE):
                rows.append((place[0], arm, written, times))
    return rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--missing", nargs="+", default=[], metavar="FILE")
    options = parser.parse_args()
    sources = (BUILD / "readers.txt").read_text().split()
    measured = measure(sources)
    for source in options.missing:
        for line, arm, written, times in branches_of(source, measured[source][2]):
            if times == 0:
                print(f"{source}:{line}: never {arm}: {written}")
    if options.missing:
        return
    print(f"{'reader':<34} {'lines':>6} {'reached':>8} {'branches':>9} {'taken':>8}")
    total = [0, 0, 0, 0]
    below, notes = [], []
    for source in sources:
        lines, reached, conditions = measured[source]
        rows = branches_of(source, conditions)
        branches = len(rows)
        taken = sum(times > 0 for _, _, _, times in rows)
        total = [a + b for a, b in zip(total, (lines, reached, branches, taken))]
        percent = 100 * taken / branches if branches else 100.0
        if percent < TARGET:
            below.append(source)
            if source in NOTES:
                notes.append(f"{source}: {NOTES[source]}")
        print(f"{source:<34} {lines:>6} {100 * reached / lines:>6.1f} % {branches:>9} {percent:>6.1f} %"
              f"{'' if percent >= TARGET else '  <'}")
    print(f"{'all':<34} {total[0]:>6} {100 * total[1] / total[0]:>6.1f} % {total[2]:>9} {100 * total[3] / total[2]:>6.1f} %")
    print("".join(note + "\n" for note in notes), end="")
    print(f"{len(sources) - len(below)} of {len(sources)} readers have {TARGET:.0f} % of their branches taken")


if __name__ == "__main__":
    main()
