# SPDX-License-Identifier: Apache-2.0

"""Images per second of a package: one request after another against the asynchronous stream.

Both read the same files and return the same predictions, without pictures and CSV. Run it with
``python tests/benchmarks/streaming.py PACKAGE IMAGES``; the two ways take turns, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

from anomalib.data.utils import get_image_filenames
from rich.console import Console

from anomalib_crad.deploy import EdgeModel, EdgePackage, read_frame, stream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anomalib_crad.deploy import Frame


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print.

    Args:
        arguments: Command-line arguments. Defaults to ``None``: those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--count", type=int, default=200, help="images a round; files are taken again if fewer")
    parser.add_argument("--rounds", type=int, default=7, help="the median counts")
    parser.add_argument("--decoded", action="store_true", help="decode before, as if from a camera")
    parser.add_argument("--device", default="CPU")
    options = parser.parse_args(arguments)

    files = get_image_filenames(options.images)
    frames: list[Frame] = [files[i % len(files)] for i in range(options.count)]
    if options.decoded:
        pixels = [read_frame(path) for path in files]
        frames = [pixels[i % len(pixels)] for i in range(options.count)]
    package = EdgePackage.open(options.package)
    one, many = EdgeModel(package, options.device), EdgeModel(package, options.device, throughput=True)

    ways: dict[str, Callable[[], object]] = {
        "one after another": lambda: [one.predict(frame) for frame in frames],
        "asynchronous stream": lambda: list(stream(many, frames)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(options.rounds + 1):
        for name, run in ways.items():
            begin = time.perf_counter()
            run()
            if round_number:  # the first warms up
                seconds[name].append(time.perf_counter() - begin)

    rates = {name: len(frames) / statistics.median(values) for name, values in seconds.items()}
    console = Console()
    threads, streams = (many.compiled.get_property(name) for name in ("INFERENCE_NUM_THREADS", "NUM_STREAMS"))
    size = "decoded before" if options.decoded else "read from files"
    console.print(f"{len(frames)} images, {size}; {os.cpu_count()} cores; stream: {streams} streams, {threads} threads")
    for name, rate in rates.items():
        console.print(f"{name + ':':<22}{rate:7.1f} images/s")
    first, second = rates.values()
    console.print(f"{'ratio:':<22}{second / first:7.2f}")


if __name__ == "__main__":
    main()
