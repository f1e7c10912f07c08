#!/usr/bin/env bash
# Lines and branches of the readers of model files that the unit and oracle tests reach (gcc's gcov).
# Prints a table and never fails for a figure: it shows where tests are missing. A branch counts when
# it was taken at least once; those that only a failed allocation or a CHECK takes are in the sum.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
build=build/coverage
readers=(host/base/json*.c host/format/*.c host/text/tokenizer*.c host/text/{sentencepiece,protobuf,tekken,tiktoken,charsmap,decoder,normalize,pretokenize}.c host/text/jinja_{lex,parse}.c host/model/config.c)
mkdir -p "$build"
cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS="--coverage -fprofile-update=atomic" -DWITH_CUDA=OFF \
    -DBUILD_TESTS=ON >"$build/cmake.log" 2>&1 || { cat "$build/cmake.log"; exit 1; }
targets=$(ninja -C "$build" -t targets all | grep -Eo '^(unit_test_[a-z0-9_]*|oracle_test_(quantized|gguf|models|tokenizers|chat_templates)):' | tr -d :)
# shellcheck disable=SC2086
ninja -C "$build" -j "$(nproc)" $targets >"$build/ninja.log" 2>&1 || { tail -30 "$build/ninja.log"; exit 1; }
find "$build" -name '*.gcda' -delete
ctest --test-dir "$build" -j "$(nproc)" -R "^($(echo $targets | tr ' ' '|'))\$" >"$build/ctest.log" 2>&1 || { tail -30 "$build/ctest.log"; exit 1; }
printf '%-36s %8s %8s\n' reader "lines %" "branch %"
for source in "${readers[@]}"; do
    [ -f "$source" ] || continue
    data=$(find "$build" -name "$(basename "$source").gcda" -path "*$(dirname "$source")*" -print -quit)
    [ -n "$data" ] || { printf '%-36s %8s\n' "$source" "not run"; continue; }
    gcov -b -n "$data" 2>/dev/null | awk -v source="$source" '
        /^File / { mine = index($0, source "'"'"'") > 0 }
        mine && /^Lines executed:/ { split($2, l, /[:%]/); lines = l[2]; n = $4 }
        mine && /^Taken at least once:/ { split($0, b, /[:%]/); printf "%-36s %8.1f %8.1f\n", source, lines, b[2]; exit }'
done
