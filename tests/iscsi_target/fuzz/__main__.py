"""``python -m tests.iscsi_target.fuzz run|replay TARGET``: fuzz for a time, or one input again.

`--pure` keeps compiled kernels out, so that their uncompiled twins are fuzzed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys


def main() -> int:
    """The command; 0: nothing found."""
    parser = argparse.ArgumentParser(prog="python -m tests.iscsi_target.fuzz", description=__doc__)
    parser.add_argument("action", choices=("run", "replay"))
    parser.add_argument("target", choices=("pdu", "text", "session"))
    parser.add_argument("data", nargs="?", default="", help="replay: the input in hexadecimal")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--inputs", type=int, help="no more than so many beyond the seeds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--keep", action="store_true", help="store the inputs worth keeping in tests/vectors/fuzz_corpus"
    )
    parser.add_argument("--pure", action="store_true", help="without compiled kernels")
    options = parser.parse_args()
    if options.pure:
        os.environ["SANCREDIT_PLAIN"] = "1"  # before the package is imported
    from tests.iscsi_target.fuzz.engine import Finding, Fuzzer, failure_of, keep
    from tests.iscsi_target.fuzz.targets import TARGETS

    unraisable: list[str] = []
    sys.unraisablehook = lambda problem: unraisable.append(
        f"{problem.exc_type.__name__}: {problem.exc_value}"
    )
    target = TARGETS[options.target]()
    if options.action == "replay":
        failure = failure_of(target, bytes.fromhex(options.data))
        print(failure[1] if failure else "survived")
        return int(failure is not None or bool(unraisable))
    fuzzer = Fuzzer(target, seed=options.seed)
    outcome = fuzzer.run(options.seconds, options.inputs)
    if isinstance(outcome, Finding):
        print(f"seed {options.seed}: {outcome}")
        return 1
    print(json.dumps(outcome.as_dict()))
    for problem in unraisable:
        print(f"seed {options.seed}: {problem}")
    if options.keep:
        kept = keep(target, fuzzer.population)
        print(f"kept {len(kept)} inputs, {sum(map(len, kept))} bytes", file=sys.stderr)
    return int(bool(unraisable))


if __name__ == "__main__":
    sys.exit(main())
