#!/bin/sh
# Two arrays, two measuring devices and a station on loopback; reserve, copy, verify. By hand what `sancredit demo`
# does, without the channel: examples/two-arrays.sh (needs sancredit on the PATH; leaves nothing behind).
set -eu
room=$(mktemp -d)
children=
trap 'kill $children 2>/dev/null || true; wait; rm -rf "$room"' EXIT
export SANCREDIT_STATION="unix:$room/station.sock"

serve() { # serve NAME COMMAND...: start in the background and wait for its first line
    name=$1
    shift
    sancredit "$@" >"$room/$name.out" &
    children="$children $!"
    while ! [ -s "$room/$name.out" ]; do
        kill -0 $! || exit 1
        sleep 0.1
    done
}

head -c 8388608 /dev/urandom >"$room/east.img"
serve east array serve --name east --listen "unix:$room/east.sock" --port-address 127.0.0.1 --iscsi-port 0 \
    --volume "vol0=$room/east.img" --state "$room/east" --chap-file "$room/chap"
serve west array serve --name west --listen "unix:$room/west.sock" --port-address 127.0.0.2 --iscsi-port 0 \
    --volume "vol0=$room/west.img:8MiB" --state "$room/west" --chap-file "$room/chap"
serve device5 probe serve --listen "unix:$room/device5.sock" --address 127.0.0.2
udp=$(sed -n 's|^listening udp://||p' "$room/device5.out")
serve device4 probe serve --listen "unix:$room/device4.sock" --address 127.0.0.1 --peer "$udp"
serve station station serve --listen "$SANCREDIT_STATION" --state "$room/station" \
    --array "east=unix:$room/east.sock" --array "west=unix:$room/west.sock" --probe "unix:$room/device4.sock"

sancredit register --port-pair 127.0.0.1,127.0.0.2 --sessions 2 --connections 3
sancredit measure --port-pair 127.0.0.1,127.0.0.2
sancredit reserve --port-pair 127.0.0.1,127.0.0.2 --size 1MiB
sancredit get reservations
sancredit copy start --port-pair 127.0.0.1,127.0.0.2 --volume vol0 --wait -o json >"$room/copy.json"
sancredit copy verify "$(sed -n 's/.*"copy_id": "\([^"]*\)".*/\1/p' "$room/copy.json" | head -n 1)"
sancredit get pools
