#!/usr/bin/env bash
# Lines and branches of the readers of what comes from outside (model files, templates, requests) that
# the unit tests, the oracle tests and the fuzz corpora reach: clang's source-based counters, in the
# readers only, so that everything else runs at its ordinary speed. Prints a table and never fails for
# a figure: it shows where tests are missing. tests/coverage.py says what is counted how;
# `tests/coverage.py --missing FILE...` afterwards lists each arm that nothing took.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
build=$PWD/build/coverage
readers=(host/base/{json*,base64}.c host/format/*.c host/model/{config*,rope}.c
    host/text/{tokenizer_*,sentencepiece,protobuf,tekken,tiktoken,unigram,wordpiece,charsmap}.c
    host/text/{added,decoder,normalize,pretokenize,pretok_names,split_regex,regex_ruby,vocab}.c
    host/text/jinja_{lex,parse,expr}.c host/grammar/{regex,grammar,expr}.c
    api/{fields*,chat,completion,text,tool_json,tool_parse,tool_calls}.c)
if ! command -v clang >/dev/null || ! command -v llvm-cov >/dev/null; then
    echo "SKIPPED: clang and llvm-cov are not here"
    exit 0
fi
mkdir -p "$build/raw"
printf '%s\n' "${readers[@]}" >"$build/readers.txt"
cmake -S . -B "$build" -G Ninja -DCMAKE_C_COMPILER=clang -DCMAKE_BUILD_TYPE=None "-DCMAKE_C_FLAGS=-O1 -w" -DWITH_CUDA=OFF \
    -DBUILD_TESTS=ON "-DNIBBLE_COVERAGE=$(IFS=';' && echo "${readers[*]}")" >"$build/cmake.log" 2>&1 ||
    { tail -30 "$build/cmake.log"; exit 1; }
targets=()
for test in tests/unit/{base,format,text,grammar,model,api}/test_*.c; do targets+=("unit_$(basename "$test" .c)"); done
for test in quantized gguf tokenizer_build tokenizers chat_templates; do targets+=("oracle_test_$test"); done
ninja -C "$build" -j "$(nproc)" "${targets[@]}" fuzzers >"$build/ninja.log" 2>&1 || { tail -40 "$build/ninja.log"; exit 1; }
rm -f "$build"/raw/*
export LLVM_PROFILE_FILE=$build/raw/%p.profraw # one file a process
ctest --test-dir "$build" -j "$(nproc)" -R "^($(IFS='|' && echo "${targets[*]}"))\$" >"$build/ctest.log" 2>&1 ||
    { tail -30 "$build/ctest.log"; exit 1; }
for corpus in tests/fuzz/corpus/*; do
    "$build/tests/$(basename "$corpus")" "$corpus"/* >"$build/replay.log" 2>&1 || { tail -30 "$build/replay.log"; exit 1; }
done
llvm-profdata merge -sparse "$build"/raw/*.profraw -o "$build/merged.profdata" && python3 tests/coverage.py
