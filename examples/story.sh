#!/bin/sh
# From a capture to a reservation that fits: two arrays copy over a long channel, somebody captures it, the capture says
# how much to reserve, it is reserved, the copy runs on it, and the verdict is two equal disks.
# Run it as it stands: examples/story.sh (needs sancredit and its python3 on the PATH; leaves nothing behind).
set -eu
here=$(dirname "$0")
room=$(mktemp -d)
children=
trap 'kill $children 2>/dev/null || true; wait; rm -rf "$room"' EXIT
trap 'exit 1' INT TERM
export SANCREDIT_STATION="unix:$room/station.sock"

start() { # start NAME COMMAND...: in the background; what it says is in $room/NAME.out
    name=$1
    shift
    "$@" >"$room/$name.out" &
    started=$!
    children="$started $children"
}

ready() { # ready NAME...: wait until each of them has said its first line
    for name in "$@"; do
        while ! [ -s "$room/$name.out" ]; do
            for child in $children; do
                kill -0 "$child" || exit 1
            done
            sleep 0.1
        done
    done
}

say() {
    printf '\n== %s\n' "$*"
}

say "A channel of 50 Mbit/s with 20 ms there and back; an array, a measuring device at each end; a station"
start channel python3 "$here/channel.py" 50Mbit 20ms
ready channel
eval "$(cat "$room/channel.out")" # $near and $far run a command at a site, $near_address and $far_address are theirs
head -c 8388608 /dev/urandom >"$room/vol0.img"
head -c 8388608 /dev/urandom >"$room/vol1.img"
start near $near sancredit array serve --name near --listen "unix:$room/near.sock" \
    --port-address "$near_address" --iscsi-port 0 --volume "vol0=$room/vol0.img" --volume "vol1=$room/vol1.img" \
    --unit 4KiB --units 1024 --state "$room/near" --chap-file "$room/chap"
ready near # it makes the secret that both share
start far $far sancredit array serve --name far --listen "unix:$room/far.sock" \
    --port-address "$far_address" --iscsi-port 0 --volume "vol0=$room/far0.img:8MiB" --volume "vol1=$room/far1.img:8MiB" \
    --unit 4KiB --units 1024 --state "$room/far" --chap-file "$room/chap"
start far-device $far sancredit probe serve --listen "unix:$room/far-device.sock" --address "$far_address"
ready far-device
udp=$(sed -n 's|^listening udp://||p' "$room/far-device.out")
start near-device $near sancredit probe serve --listen "unix:$room/near-device.sock" \
    --address "$near_address" --peer "$udp"
ready far near-device
start station sancredit station serve --listen "$SANCREDIT_STATION" --state "$room/station" \
    --array "near=unix:$room/near.sock" --array "far=unix:$room/far.sock" --probe "unix:$room/near-device.sock"
ready station
pair="$near_address,$far_address"
sancredit register --port-pair "$pair" --sessions 2 --connections 2

say "Capture: the channel while a copy runs without any reservation"
capture=$room/channel.pcapng
start sniffer $near python3 -m tools.capture.sniff --snap-bytes 65535 "$interface" "$capture"
ready sniffer
sniffer=$started
sancredit copy start --port-pair "$pair" --volume vol0 --wait
kill "$sniffer"
wait "$sniffer"
children=${children#"$sniffer "}
sancredit capture flows "$capture"
sancredit capture credits "$capture"

say "Recommendation: what the capture shows, and what follows from it"
sancredit recommend --capture "$capture" --unit-size 4KiB --explain

say "Reservation: that much, for this pair of ports"
sancredit reserve --port-pair "$pair" --size "capture:$capture"
sancredit get reservations

say "Copy: on what is reserved"
sancredit copy start --port-pair "$pair" --volume vol1 --wait >"$room/copy"
cat "$room/copy"
sancredit get pools

say "Verdict"
sancredit copy verify "$(sed -n '1s/:.*//p' "$room/copy")"
