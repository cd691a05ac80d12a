"""All benchmarks, one process each, and their targets together at the end.

    python benchmarks [--quick] [--large] [--patience SECONDS] [--json] [NAME ...]

`python -m benchmarks` does the same.  --json writes benchmarks/results/NAME.json for each.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE)]  # for python -m benchmarks

NAMES = (
    "step", "many", "dtypes", "norms", "growth", "start", "mnist_epoch", "rnn_epoch", "trained", "simulate",
    "maps", "stacked", "search", "torch_train", "torch_memory", "lowbit", "convert", "jax_train",
    "keras_train", "torch_gpu",
)  # fmt: skip


def main() -> int:
    from tables import add_options, print_targets

    parser = argparse.ArgumentParser(prog="benchmarks", description=(__doc__ or "").split("\n")[0])
    add_options(parser)
    parser.add_argument("--json", action="store_true", help="write benchmarks/results/NAME.json")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    options = parser.parse_args()
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(
            f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}"
        )
    flags = [f"--{name}" for name in ("quick", "large") if getattr(options, name)]
    flags.append(f"--patience={options.patience}")
    start, failed, targets = time.perf_counter(), [], []
    with tempfile.TemporaryDirectory() as scratch:
        folder = HERE / "results" if options.json else Path(scratch)
        for name in options.names or NAMES:
            file = folder / f"{name}.json"
            command = [sys.executable, str(HERE / f"{name}.py"), *flags, "--json", str(file)]
            if subprocess.run(command, check=False).returncode:
                failed.append(name)
                continue
            targets += json.loads(file.read_text(encoding="utf-8"))["targets"]
            print("\n" + 79 * "-" + "\n", flush=True)
    print_targets(targets)
    print(f"{sum(t['met'] for t in targets)} of {len(targets)} targets met", end="")
    print(f", in {time.perf_counter() - start:.0f} s" + (f"; FAILED: {failed}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
