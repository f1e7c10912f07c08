#!/usr/bin/env bash
# Installs what nibble needs, builds it, and serves a model.
#
#   server/run.sh [MODEL] [options]     MODEL: a Hugging Face folder; none: the embedded demo model
#   server/run.sh --help                the options
#
# Debian 12 or Ubuntu 22.04 and later. apt-get runs (with sudo when not root) only when a package is
# missing. The server says where it listens and which curl line to try.
set -eu -o pipefail
caller=$PWD
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

needs=(build-essential cmake ninja-build pkg-config libmicrohttpd-dev libcjson-dev libpcre2-dev
    libutf8proc-dev libxxhash-dev libgnutls28-dev)
missing=()
for package in "${needs[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] ||
        missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    if ! command -v apt-get >/dev/null; then
        echo "server/run.sh: no apt-get here; install the likes of: ${missing[*]}" >&2
        exit 1
    fi
    sudo=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || { echo "server/run.sh: as root: apt-get install ${missing[*]}" >&2; exit 1; }
        sudo=(sudo)
    fi
    echo "server/run.sh: installing ${missing[*]}" >&2
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "${missing[@]}" >&2
fi

# Quiet unless it fails. A folder that was configured with tests keeps its other settings: this only
# turns them off, and tests/run.sh turns them on again.
cd "$root"
mkdir -p build/logs
log=build/logs/server-run.log
# The CUDA backend where there is a GPU and a toolkit, for that GPU alone: all architectures take minutes.
cuda=(-DWITH_CUDA=OFF)
if arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d .) && [ -n "$arch" ]; then
    [ "$arch" = 90 ] && arch=90a
    cuda=(-DWITH_CUDA=auto "-DNIBBLE_CUDA_ARCHS=$arch")
fi
if ! { cmake --preset release -DBUILD_TESTS=OFF "${cuda[@]}" && cmake --build build/release --target nibble; } >"$log" 2>&1; then
    tail -60 "$log" >&2
    echo "server/run.sh: the build failed; all of it is in $root/$log" >&2
    exit 1
fi
cd "$caller" # MODEL may be a relative path
exec "$root/build/release/nibble" serve "$@"
