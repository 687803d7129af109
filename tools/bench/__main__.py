"""``python -m tools.bench [NAME...] [OPTIONS]``: run benchmarks one after the other, each as a program of its own.

Options, from the first word with a dash on, go to the one benchmark that is named.
"""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = {
    "credits": "tools.bench.credits_bench",
    "channel": "tools.bench.wan_bench",
    "copy": "tools.bench.copy_bench",
    "goodput": "tools.bench.goodput_bench",
    "follow": "tools.bench.follow_bench",
    "host-io": "tools.bench.host_io_bench",
    "pairs": "tools.bench.pairs_bench",
    "replication": "tools.bench.replication_bench",
    "iscsi": "tools.bench.iscsi_bench",
    "harness": "tools.bench.harness_bench",
    "lab": "tools.bench.lab_bench",
    "api": "tools.bench.api_bench",
    "web": "tools.bench.web_bench",
    "capture": "tools.bench.capture_bench",
    "replay": "tools.bench.replay_bench",
    "fc": "tools.bench.fc_bench",
    "fc-live": "tools.bench.fc_live_bench",
    "station": "tools.bench.station_bench",
}


def main(words: list[str]) -> int:
    """Exit status of the first benchmark that failed, else 0; 2 for a name that there is not."""
    first = next((number for number, word in enumerate(words) if word.startswith("-")), len(words))
    names, options = words[:first], words[first:]
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        sys.stderr.write(f"no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}\n")
        return 2
    if options and len(names) != 1:
        sys.stderr.write(f"{options[0]} is for one benchmark: python -m tools.bench NAME {options[0]}\n")
        return 2
    worst = 0
    for name in names or BENCHMARKS:
        sys.stdout.write(f"\n== {name}: python -m {BENCHMARKS[name]}\n")
        sys.stdout.flush()
        code = subprocess.run([sys.executable, "-m", BENCHMARKS[name], *options], check=False).returncode
        worst = worst or code
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
