#!/usr/bin/env bash
# Installs what the tests need, builds, runs everything, closes with one summary.
#
#   tests/run.sh          what CI runs: formats, floors, dev build (ASan+UBSan) with unit, oracle, ops,
#                         sim and http tests, TSan on engine, http and kernels, fuzz corpora; minutes on 2 cores
#   tests/run.sh --all    also the full reference data (NIBBLE_ORACLE, default ../shared/oracle), the
#                         release-build checks of quality, speed and memory, the image, long fuzzing
#   tests/run.sh STAGE... only these stages (names below)
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
ROOT=$PWD
all=0
only=()
for argument in "$@"; do
    case $argument in
    --all) all=1 ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) only+=("$argument") ;;
    esac
done
jobs=$(nproc)
export CTEST_OUTPUT_ON_FAILURE=1 NIBBLE_BUILD="$ROOT/build/dev"
export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0:detect_stack_use_after_return=0
export UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1
mkdir -p build/logs
passed=0 failed=0 skipped=0
failures=()

install_needs() {
    local want=(build-essential cmake ninja-build pkg-config ccache git python3 python3-venv curl
        libmicrohttpd-dev libcjson-dev libpcre2-dev libutf8proc-dev libxxhash-dev libgnutls28-dev
        libcmocka-dev zlib1g-dev clang clang-format libclang-rt-14-dev wrk iproute2 procps)
    local missing=() package
    for package in "${want[@]}"; do
        dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
    done
    if [ ${#missing[@]} -gt 0 ]; then
        local sudo=""
        [ "$(id -u)" = 0 ] || sudo=sudo
        echo "installing: ${missing[*]}"
        $sudo env DEBIAN_FRONTEND=noninteractive apt-get update -qq || return 1
        for package in "${missing[@]}"; do # a name that this release lacks must not stop the others
            $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$package" \
                >>build/logs/apt.log 2>&1 || echo "not installed: $package (see build/logs/apt.log)"
        done
    fi
    if ! cmp -s tests/requirements.txt build/venv/requirements.txt; then # none yet, or of other packages
        python3 -m venv build/venv && build/venv/bin/pip install -q --disable-pip-version-check \
            -r tests/requirements.txt && cp tests/requirements.txt build/venv/ || return 1
    fi
}

configure() { # preset
    local cuda=() # CUDA has stages of its own
    [ "$1" = release ] && cuda=(-DWITH_CUDA=OFF)
    cmake --preset "$1" -DBUILD_TESTS=ON "${cuda[@]}" >"build/logs/cmake-$1.log" 2>&1 ||
        { cat "build/logs/cmake-$1.log"; return 1; }
}
build() { # preset [targets]
    local preset=$1
    shift
    configure "$preset" && ninja -C "build/$preset" -j "$jobs" "$@" >"build/logs/build-$preset.log" 2>&1 ||
        { tail -60 "build/logs/build-$preset.log"; return 1; }
}
# ctest's own closing line is the runner's summary; its counts are added to ours.
run_ctest() { # preset, ctest arguments
    local preset=$1 log status
    shift
    log=build/logs/ctest-$preset.log
    ctest --test-dir "build/$preset" -j "$jobs" "$@" 2>&1 | tee "$log"
    status=$?
    local total bad
    bad=$(sed -n 's/.*tests passed, \([0-9]*\) tests failed out of.*/\1/p' "$log" | tail -1)
    total=$(sed -n 's/.*tests failed out of \([0-9]*\).*/\1/p' "$log" | tail -1)
    passed=$((passed + ${total:-0} - ${bad:-0}))
    failed=$((failed + ${bad:-0}))
    grep -h "SKIPPED" "build/$preset/Testing/Temporary/LastTest.log" 2>/dev/null | sort | uniq -c | head -40
    return $status
}
run_pytest() { # log name, pytest arguments
    local log=build/logs/pytest-$1.log status n
    shift
    build/venv/bin/python -m pytest -q -rs -p no:cacheprovider "$@" 2>&1 | tee "$log"
    status=$?
    n=$(grep -Eo '[0-9]+ passed' "$log" | tail -1 | cut -d' ' -f1); passed=$((passed + ${n:-0}))
    n=$(grep -Eo '[0-9]+ failed' "$log" | tail -1 | cut -d' ' -f1); failed=$((failed + ${n:-0}))
    n=$(grep -Eo '[0-9]+ error' "$log" | tail -1 | cut -d' ' -f1); failed=$((failed + ${n:-0}))
    n=$(grep -Eo '[0-9]+ skipped' "$log" | tail -1 | cut -d' ' -f1); skipped=$((skipped + ${n:-0}))
    return $status
}

stage_format() { tests/check_format; }
stage_floors() { tests/check_floors; }
stage_dev() { build dev && run_ctest dev -L 'unit|oracle|ops|sim'; }
# Grammars against python-jsonschema and re.
stage_grammar() {
    build/venv/bin/pip install -q --disable-pip-version-check -r tests/requirements.txt || return 1
    build dev grammar_driver && NIBBLE_BUILD="$ROOT/build/dev" run_pytest grammar tests/grammar
}
stage_http() { build dev nibble && NIBBLE_BUILD="$ROOT/build/dev" run_pytest http tests/http --ignore tests/http/test_cuda.py; }
# `serve --device cuda` on the emulator: what only it can show, and a part of the tests of every server.
stage_http_cuda() {
    build dev nibble_emulated || return 1
    export NIBBLE_KERNELS=rule # an emulator's times say nothing, and take minutes
    NIBBLE_CUDA_BUILD="$ROOT/build/dev/emulated" run_pytest http-cuda tests/http/test_cuda.py &&
        NIBBLE_BUILD="$ROOT/build/dev/emulated" NIBBLE_DEVICE=cuda NIBBLE_OVERLAP=on run_pytest http-emulated tests/http/test_contract.py \
            -k "health or shape or stream_order or echo or stop"
}
stage_tsan() {
    local targets
    configure tsan || return 1
    targets=$(ninja -C build/tsan -t targets all | grep -Eo '^(sim_test_engine|unit_test_pool|unit_test_queue|nibble):' | tr -d :)
    # shellcheck disable=SC2086
    build tsan $targets &&
        setarch "$(uname -m)" -R ctest --test-dir build/tsan -R 'sim_test_engine|unit_test_pool|unit_test_queue' &&
        NIBBLE_BUILD="$ROOT/build/tsan" NIBBLE_SANITIZER=thread run_pytest http-tsan tests/http --ignore tests/http/test_cuda.py -k "tsan or concurrent or cancel or lifecycle"
}
# The kernels' race suite: a missing barrier is reported with both lines.
stage_race() {
    local targets
    configure tsan || return 1
    targets=$(ninja -C build/tsan -t targets all | grep -Eo '^cuda_test_[a-z0-9_]*:' | tr -d :)
    # shellcheck disable=SC2086
    build tsan $targets && run_ctest tsan -L race
}
# Kernels by nvcc and what became of them; their arithmetic runs in stage dev (label ops, tests/hostcuda).
stage_nvcc() {
    local status archs=()
    [ $all = 1 ] && archs=(--all)
    build/venv/bin/pip install -q --disable-pip-version-check -r tests/cuda/requirements.txt || return 1
    run_pytest cuda tests/cuda || return 1
    tests/cuda/build_all "${archs[@]}"
    status=$?
    if [ $status = 77 ]; then
        echo "skipped: no nvcc"
        skipped=$((skipped + 1))
        return 0
    fi
    [ $status = 0 ] && build/venv/bin/python tests/cuda/report.py
}
# The program that is shipped to GPUs, where there is a toolkit: it must start without a driver.
stage_cuda() {
    if ! command -v nvcc >/dev/null && ! [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ]; then
        echo "skipped: no nvcc"
        skipped=$((skipped + 1))
        return 0
    fi
    build cuda nibble && build/cuda/nibble complete -p "Once" --temperature 0 -n 8 || return 1
    if ldd build/cuda/nibble | grep -E 'libcuda|libcublas|libcudart|libnccl'; then
        echo "build/cuda/nibble is linked with a library of the driver or the toolkit"
        return 1
    fi
    tests/gpu/pack.sh --rehearse && tests/gpu/run.sh
}
stage_mutation() { build/venv/bin/python tests/cuda/mutate.py; }
stage_fuzz() { tests/fuzz/run.sh "$([ $all = 1 ] && echo 120 || echo 30)"; }
stage_coverage() { tests/coverage.sh; }
stage_release() { build release; }
stage_full() {
    NIBBLE_ORACLE=${NIBBLE_ORACLE:-$(realpath ../shared/oracle 2>/dev/null)}
    [ -d "$NIBBLE_ORACLE" ] || { echo "no full reference data: set NIBBLE_ORACLE"; return 1; }
    export NIBBLE_ORACLE
    run_ctest release -L 'unit|oracle|ops|sim'
}
stage_http_release() { NIBBLE_BUILD="$ROOT/build/release" run_pytest http-release tests/http --ignore tests/http/test_cuda.py --release; }
stage_bench() { tests/bench/run.sh; }
stage_image() { docker/build-cpu.sh --test; }

stages=(format floors dev grammar http http_cuda tsan race nvcc fuzz release)
[ $all = 1 ] && stages+=(coverage full http_release bench cuda mutation image)
[ ${#only[@]} -gt 0 ] && stages=("${only[@]}")

started=$(date +%s)
if ! install_needs; then
    echo "could not install what the tests need"
    exit 1
fi
table=""
for name in "${stages[@]}"; do
    printf '\n==== %s\n' "$name"
    from=$(date +%s)
    before=$failed
    if "stage_$name"; then
        result=ok
        passed=$((passed + 1))
    else
        result=FAILED
        failures+=("$name")
        [ "$failed" -gt "$before" ] || failed=$((failed + 1))
    fi
    table+=$(printf '%-14s %-7s %5d s' "$name" "$result" $(($(date +%s) - from)))$'\n'
done
printf '\n%s' "$table"
echo "total $(($(date +%s) - started)) s${failures[*]:+, failed stages: ${failures[*]}}"
echo "nibble: $passed passed, $failed failed, $skipped skipped"
[ ${#failures[@]} -eq 0 ]
