"""``python -m tools.bench [NAME...]``: run the benchmarks one after the other, each as a program of its own."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = {
    "credits": "tools.bench.credits_bench",
    "channel": "tools.bench.wan_bench",
    "copy": "tools.bench.copy_bench",
}


def main(names: list[str]) -> int:
    """Exit status of the first benchmark that failed, else 0; 2 for a name that there is not."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        sys.stderr.write(f"no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}\n")
        return 2
    worst = 0
    for name in names or BENCHMARKS:
        sys.stdout.write(f"\n== {name}: python -m {BENCHMARKS[name]}\n")
        sys.stdout.flush()
        code = subprocess.run([sys.executable, "-m", BENCHMARKS[name]], check=False).returncode
        worst = worst or code
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
