# SPDX-License-Identifier: Apache-2.0

"""What the plugin costs a program that imports torch and never anomalib.

Runs what PyTorch runs at the end of its import, loading the entry point and calling it, in fresh interpreters, and
prints the median of their times. Torch itself is imported before, without its autoloading: that takes seconds.

    python tests/benchmarks/plugin_cost.py --runs 9
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

_MEASURED = """
import time
import torch
start = time.perf_counter()
from anomalib_crad.plugin import install
install()
print((time.perf_counter() - start) * 1e3)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time the plugin's part of `import torch`.")
    parser.add_argument("--runs", type=int, default=9, help="Interpreters to start. Default: %(default)s")
    runs = parser.parse_args().runs
    environment = {**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    call = [sys.executable, "-c", _MEASURED]
    times = [
        float(subprocess.run(call, capture_output=True, text=True, check=True, env=environment).stdout)
        for _ in range(runs + 1)
    ]
    print(f"median {statistics.median(times[1:]):.2f} ms, largest {max(times[1:]):.2f} ms ({runs} runs)")


if __name__ == "__main__":
    main()
