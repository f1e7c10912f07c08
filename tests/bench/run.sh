#!/usr/bin/env bash
# Every bench with a limit, on the release build. Each prints its figures beside a limit or a rival
# measured in the same run, and exits non-zero when a limit is missed.
set -u -o pipefail
cd "$(dirname "$0")/../.." || exit 1
passed=0 failed=0
run() { # name, command...
    printf '\n-- %s\n' "$*"
    if "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "LIMIT MISSED: $*"; fi
}
run python3 tests/bench/bench_server.py
run python3 tests/bench/bench_stall.py
run python3 tests/bench/bench_load.py
run build/release/tests/bench_linear
run build/release/tests/bench_formats
run build/release/tests/bench_attend
run build/release/tests/bench_grammar
build/venv/bin/python -c 'import tokenizers' 2>/dev/null || build/venv/bin/pip install -q tokenizers
run build/venv/bin/python tests/bench/bench_tokenizer.py build/release/tests/bench_tokenizer \
    server/demo/tokenizer.json tests/oracle/demo/heldout.txt
run python3 tests/bench/bench_model.py
printf '\n%s passed, %s failed\n' "$passed" "$failed"
[ $failed -eq 0 ]
