#!/usr/bin/env bash
# Build the CPU image without a daemon (buildah, chroot isolation) and, with --test, start it as the
# non-root user on a read-only model, ask it for its health and for one completion, and stop it.
# Base image: debian:12-slim from a registry, or (--debootstrap, and the fallback) one made here by
# debootstrap with this machine's own apt configuration. Needs root.
set -eu -o pipefail
cd "$(dirname "$0")/.."
test=0 bootstrap=0
for argument in "$@"; do
    case $argument in
    --test) test=1 ;;
    --debootstrap) bootstrap=1 ;;
    *) echo "usage: $0 [--test] [--debootstrap]"; exit 2 ;;
    esac
done
need=()
for package in buildah debootstrap curl; do
    dpkg -s "$package" >/dev/null 2>&1 || need+=("$package")
done
if [ ${#need[@]} -gt 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${need[@]}" >/dev/null
fi
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
store=$PWD/build/image
mkdir -p "$store"
buildah=(buildah --root "$store/root" --runroot "$store/run")

make_base() {
    local mirror
    mirror=$(apt-get indextargets --format '$(REPO_URI)' | grep -v security | head -1)
    if [ ! -f "$store/base.tar" ]; then
        rm -rf "$store/base"
        debootstrap --variant=minbase bookworm "$store/base" "$mirror" >"$store/debootstrap.log" 2>&1
        cp -a /etc/apt/sources.list* /etc/apt/apt.conf.d "$store/base/etc/apt/" 2>/dev/null || true
        rm -f "$store"/base/etc/apt/apt.conf.d/*{docker,packagekit,appstream}* # hooks of this machine
        tar -C "$store/base" --exclude=./var/cache/apt/archives/*.deb -cf "$store/base.tar" .
        rm -rf "$store/base"
    fi
    local made
    made=$("${buildah[@]}" from scratch)
    "${buildah[@]}" add -q "$made" "$store/base.tar" / >/dev/null
    "${buildah[@]}" commit -q "$made" nibble-base >/dev/null
    "${buildah[@]}" rm "$made" >/dev/null
}
base=debian:12-slim
if [ $bootstrap = 1 ] || ! timeout 60 "${buildah[@]}" pull -q "$base" >/dev/null 2>&1; then
    base=localhost/nibble-base
    if [ ! -f "$store/base.tar" ] || ! "${buildah[@]}" inspect --type image "$base" >/dev/null 2>&1; then
        make_base
    fi
fi
"${buildah[@]}" bud -q --format docker --build-arg BASE="$base" -f docker/Dockerfile.cpu -t nibble:cpu . \
    >"$store/build.log" 2>&1 || { tail -40 "$store/build.log"; exit 1; }
"${buildah[@]}" rmi --prune >/dev/null 2>&1 || true # the image of the last time
echo "built nibble:cpu from $base: $("${buildah[@]}" images --format '{{.Size}}' nibble:cpu)"
[ $test = 1 ] || exit 0

fail() {
    echo "FAILED  $*"
    tail -20 "$store/serve.log" 2>/dev/null
    echo "0 passed, 1 failed"
    exit 1
}
# chroot isolation shares the machine's ports and process ids, and keeps nothing from writing: hence a
# free port, and the server's own id among the descendants of our buildah.
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])' 2>/dev/null ||
    echo $((20000 + RANDOM % 20000)))
container=$("${buildah[@]}" from nibble:cpu)
in_image=("${buildah[@]}" run --user 10001:10001 --env NIBBLE_PORT="$port" --env NIBBLE_HOST=127.0.0.1 "$container" --)
"${in_image[@]}" /usr/local/bin/nibble serve >"$store/serve.log" 2>&1 &
runner=$!
server_pid() { # [PARENT]: the descendant whose program is nibble
    local child
    for child in $(ps -o pid= --ppid "${1:-$runner}"); do
        [ "$(cat "/proc/$child/comm" 2>/dev/null)" = nibble ] && { echo "$child"; return; }
        server_pid "$child"
    done
}
stop() {
    local pid
    pid=$(server_pid)
    [ -n "$pid" ] && kill -KILL "$pid" 2>/dev/null
    wait "$runner" 2>/dev/null || true
    "${buildah[@]}" rm "$container" >/dev/null 2>&1 || true
}
trap stop EXIT
url=http://127.0.0.1:$port
for _ in $(seq 100); do
    curl -fsS "$url/ready" >/dev/null 2>&1 && break
    sleep 0.1
done
curl -fsS "$url/health" >/dev/null || fail "/health does not answer"
"${buildah[@]}" inspect --type image --format '{{.Docker.Config.Healthcheck}} {{.Docker.Config.User}}' nibble:cpu |
    grep -q 'nibble health.* 10001:10001' || fail "the image has no HEALTHCHECK or another user"
# The check as the image runs it: no URL, the port from the environment.
"${in_image[@]}" /usr/local/bin/nibble health || fail "nibble health in the image"
"${buildah[@]}" run --user 10001:10001 --env NIBBLE_PORT=1 "$container" -- /usr/local/bin/nibble health >/dev/null 2>&1 &&
    fail "nibble health asks another port than NIBBLE_PORT"
pid=$(server_pid)
[ "$(ps -o uid= -p "$pid" | tr -d ' ')" = 10001 ] || fail "the server does not run as uid 10001"
answer=$(curl -fsS "$url/v1/chat/completions" -H 'Content-Type: application/json' \
    -d '{"messages":[{"role":"user","content":"Hello! Who are you?"}],"max_tokens":16}') || fail "no chat"
case $answer in
*'"choices"'*'"completion_tokens"'*) echo "$answer" ;;
*) fail "no completion: $answer" ;;
esac
curl -fsS "$url/v1/completions" -d '{"prompt":"The","max_tokens":4,"stream":true}' -H 'Content-Type: application/json' |
    tail -2 | grep -q '^data: \[DONE\]' || fail "a stream without its end"
kill -TERM "$pid"
for _ in $(seq 100); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
done
kill -0 "$pid" 2>/dev/null && fail "SIGTERM did not end it within 10 s"
echo "1 passed, 0 failed"
