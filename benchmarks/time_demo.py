"""What a newcomer waits for: the help, and the demonstration with nothing compiled before.

    python benchmarks/time_demo.py

Each run is a process of its own; the demonstration gets an empty folder for what JAX compiles. The
bounds are for a laptop with nothing else to do. Exit code 1: one of them was missed.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ABOVE_JAX = 0.5
"""The help may take this much longer than `import jax` [s]."""
DEMO = 60.0
"""The demonstration may take this long [s]."""
JXREG = "import sys; from jxreg.cli import main; sys.exit(main())"


def seconds(runs: int, *words: str, folder: Path) -> float:
    """Median time of a Python process [s]."""
    environment = dict(os.environ, XDG_CACHE_HOME=str(folder))
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", *words], check=True, capture_output=True, env=environment
        )
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jax = seconds(5, "import jax", folder=folder)
        shown = seconds(5, JXREG, "--help", folder=folder)
        demo = seconds(1, JXREG, "demo", "--out", str(folder / "demo"), folder=folder)
    rows = [
        ("python -c 'import jax'", jax, None),
        ("jxreg --help", shown, jax + ABOVE_JAX),
        ("jxreg demo, cold", demo, DEMO),
    ]
    missed = False
    for what, time_s, bound in rows:
        verdict = ""
        if bound is not None:
            missed |= time_s > bound
            verdict = f"  at most {bound:5.2f} s: {'FAIL' if time_s > bound else 'pass'}"
        print(f"{what:24}{time_s:6.2f} s{verdict}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
