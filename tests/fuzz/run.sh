#!/usr/bin/env bash
# Build every fuzz_*.c with libFuzzer (clang, ASan+UBSan) and run each for SECONDS (default 30) on its
# corpus. A crash fails; the input is left in build/fuzz.
set -u -o pipefail
cd "$(dirname "$0")/../.." || exit 1
seconds=${1:-30}
if ! command -v clang >/dev/null || ! echo 'int LLVMFuzzerTestOneInput(const unsigned char *d, unsigned long n){(void)d;(void)n;return 0;}' |
    clang -fsanitize=fuzzer -x c - -o /dev/null 2>/dev/null; then
    echo "SKIPPED: clang with libFuzzer is not here"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
fi
mkdir -p build/fuzz
flags=(-g -O1 -std=gnu17 -D_GNU_SOURCE -DNIBBLE_VERSION='"fuzz"' -I. -fsanitize=fuzzer-no-link,address,undefined
    -fno-sanitize-recover=all)
libraries=$(pkg-config --cflags --libs libcjson libpcre2-8 libutf8proc libxxhash)
objects=()
for source in host/base/*.c host/format/*.c host/grammar/*.c host/text/*.c host/backend/sampler*.c api/*.c; do
    [ -f "$source" ] || continue
    object=build/fuzz/$(echo "$source" | tr / _).o
    if [ ! -f "$object" ] || [ "$source" -nt "$object" ] ||
        [ -n "$(find host api -name '*.h' -newer "$object" -print -quit)" ]; then
        # shellcheck disable=SC2086
        clang "${flags[@]}" -c "$source" -o "$object" $(pkg-config --cflags libcjson libpcre2-8 libutf8proc) || exit 1
    fi
    objects+=("$object")
done
ar rcs build/fuzz/libhost.a "${objects[@]}"
# One fuzzer: built, run on its corpus, one line of result.
fuzz_one() {
    local target=$1 name seeds=()
    name=$(basename "$target" .c)
    # shellcheck disable=SC2086
    clang "${flags[@]}" -fsanitize=fuzzer "$target" build/fuzz/libhost.a $libraries -lm -lpthread \
        -o "build/fuzz/$name" || { echo "FAILED  $name: not built"; return 1; }
    mkdir -p "build/fuzz/corpus/$name"
    [ -d "tests/fuzz/corpus/$name" ] && seeds+=("tests/fuzz/corpus/$name")
    if ASAN_OPTIONS=detect_leaks=1 "build/fuzz/$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
        -artifact_prefix=build/fuzz/ "build/fuzz/corpus/$name" "${seeds[@]}" >"build/fuzz/$name.log" 2>&1; then
        echo "ok      $name: $(grep -Eo 'stat::number_of_executed_units: *[0-9]+|Done [0-9]+ runs' "build/fuzz/$name.log" | tail -1)"
    else
        echo "FAILED  $name"
        tail -30 "build/fuzz/$name.log"
        return 1
    fi
}
# As many at a time as there are CPUs.
passed=0 failed=0 running=0
finish_one() {
    if wait -n; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
    running=$((running - 1))
}
for target in tests/fuzz/fuzz_*.c; do
    [ $running -lt "$(nproc)" ] || finish_one
    fuzz_one "$target" &
    running=$((running + 1))
done
while [ $running -gt 0 ]; do finish_one; done
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
