#!/usr/bin/env bash
# pack.sh [--rehearse]: everything a GPU machine needs, built here for sm_90a, in build/gpu-pack (at
# most 20 MB). That machine has a driver, glibc 2.36 or later and Python, and none of our libraries.
#   pack.tar.xz   bin/   the kernel tests and benches (libc, libm and the driver only), nibble
#                 lib/   the shared libraries of nibble, found through DT_RPATH $ORIGIN/../lib, theirs too
#   commit        what it was built from
# (Compressed, because the runtime is linked into every program, and is then there once.)
# --rehearse: starts all of it in an empty root that holds the pack and a C library: without a GPU the
# tests must say so and nibble must answer on the CPU. Needs root for chroot.
# There: tests/gpu/run.sh
set -eu -o pipefail
cd "$(dirname "$0")/../.."
rehearse=0
for argument in "$@"; do
    case $argument in
    --rehearse) rehearse=1 ;;
    *) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
done
ARCH=${ARCH:-90a} LIMIT_MB=20
build=build/cuda-pack out=build/gpu-pack
pack=$build/pack
nvcc=${NVCC:-$(command -v nvcc || echo "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc")}
[ -x "$nvcc" ] || { echo "no nvcc"; exit 77; }
launcher=$(command -v ccache || true)
export nvcc launcher build pack ARCH

mkdir -p "$build"
cmake -G Ninja -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DWITH_CUDA=ON -DNIBBLE_CUDA_ARCHS="$ARCH" \
    -DBUILD_TESTS=OFF -DCMAKE_BUILD_RPATH='$ORIGIN/../lib' -DCMAKE_EXE_LINKER_FLAGS=-Wl,--disable-new-dtags \
    >"$build/cmake.log" || { cat "$build/cmake.log"; exit 1; }
ninja -C "$build" -j 2 nibble nibble_cuda nibble_backend >"$build/ninja.log" || { tail -40 "$build/ninja.log"; exit 1; }

rm -rf "$pack"
mkdir -p "$pack/bin" "$pack/lib" "$build/programs"
program() { # file.cu: its object, then the program
    local name object
    name=$(basename "$1" .cu)
    object=$build/programs/$name.o
    # shellcheck disable=SC2086
    $launcher "$nvcc" -arch="sm_$ARCH" -std=c++17 -O2 -I. -c -o "$object" "$1" 2>&1 &&
        g++ -s -o "$pack/bin/$name" "$object" -static-libstdc++ -static-libgcc -Wl,--as-needed -Wl,--start-group \
            "$build"/libnibble_{cuda,backend,format,base}.a -Wl,--end-group -lcjson \
            -L"$(dirname "$(dirname "$nvcc")")/lib64" -lcudart_static -ldl -lrt -lpthread -lm \
            '-Wl,-rpath,$ORIGIN/../lib,--disable-new-dtags' 2>&1 || { echo "FAILED  $1"; return 1; }
}
export -f program
shopt -s nullglob
printf '%s\0' tests/gpu/test_*.cu tests/ops/cuda/test_*.cu tests/gpu/bench_*.cu |
    xargs -0 -n 1 -P 2 bash -c 'program "$1"' program >"$build/programs.log" || { cat "$build/programs.log"; exit 1; }

strip -o "$pack/bin/nibble" "$build/nibble"
# Every library but the C library's own, which belongs to the machine.
for program in "$pack"/bin/*; do ldd "$program"; done | # (none is in lib/ yet)
    awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u |
    grep -Ev '/(libc|libm|libdl|librt|libpthread|libresolv)\.so|ld-linux' |
    xargs -r -I {} cp -L {} "$pack/lib/"
strip --strip-unneeded "$pack"/lib/*
rm -rf "$out"
mkdir -p "$out"
tar -C "$pack" -c . | xz -9 -T1 >"$out/pack.tar.xz"
git rev-parse HEAD >"$out/commit"
[ -z "$(git status --porcelain -- cuda host api server)" ] || echo "and changes" >>"$out/commit"

size=$(du -sm --apparent-size "$out" | cut -f1)
echo "$out: $size MB, $(find "$pack/bin" -type f | wc -l) programs, $(find "$pack/lib" -type f | wc -l) libraries"
[ "$size" -le $LIMIT_MB ] || { echo "more than $LIMIT_MB MB"; exit 1; }
[ $rehearse = 1 ] || exit 0

# ---- rehearsal -----------------------------------------------------------------------------------
root=$(mktemp -d)
trap 'umount -R "$root/proc" 2>/dev/null; rm -rf --one-file-system "$root"' EXIT
mkdir -p "$root"/{proc,dev,tmp,lib64,lib/x86_64-linux-gnu}
# $ORIGIN is read from /proc; where that cannot be mounted, the path is given by hand.
mount -t proc proc "$root/proc" 2>/dev/null || mount --rbind /proc "$root/proc" 2>/dev/null || {
    echo "rehearsal: no /proc here, libraries through LD_LIBRARY_PATH"
    export LD_LIBRARY_PATH=/pack/lib
}
cp -L /lib64/ld-linux-x86-64.so.2 "$root/lib64/"
for name in libc libm libdl librt libpthread libresolv; do
    cp -L /lib/x86_64-linux-gnu/$name.so.* "$root/lib/x86_64-linux-gnu/"
done
mkdir "$root/pack"
tar -C "$root/pack" -xJf "$out/pack.tar.xz"
failed=0 passed=0
for program in "$root"/pack/bin/{test,bench}_*; do
    name=$(basename "$program") status=0
    chroot "$root" "/pack/bin/$name" >"$root/out" 2>&1 || status=$?
    if [ $status = 77 ] && grep -q 'no CUDA device' "$root/out"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED  $name: exit $status"
        cat "$root/out"
    fi
done
text=$(chroot "$root" /pack/bin/nibble complete -p "Once" --temperature 0 -n 8 2>"$root/err") || true
if [ -n "$text" ]; then
    passed=$((passed + 1))
else
    failed=$((failed + 1))
    echo "FAILED  nibble complete"
    cat "$root/err"
fi
status=0
chroot "$root" /pack/bin/nibble complete -p "Once" --device cuda >"$root/out" 2>&1 || status=$?
if [ $status != 0 ] && grep -qi 'cuda' "$root/out"; then
    passed=$((passed + 1))
    tail -1 "$root/out"
else
    failed=$((failed + 1))
    echo "FAILED  --device cuda without a driver: exit $status"
    cat "$root/out"
fi
echo "rehearsal: $passed passed, $failed failed"
[ $failed = 0 ]
