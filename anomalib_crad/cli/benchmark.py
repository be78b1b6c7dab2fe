# SPDX-License-Identifier: Apache-2.0

"""``anomalib-crad benchmark --config PLAN``: compare models on datasets over seeds, under one protocol."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from anomalib_crad.files import configuration

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None, prog: str = "anomalib-crad benchmark") -> int:
    """Run a benchmark.

    Args:
        arguments: The command line's. Defaults to ``None``: those of this process.
        prog: How the user started this, for the help. Defaults to ``"anomalib-crad benchmark"``.

    Returns:
        Exit code: 0, also where some models could not be run, 1 where none could, 130 after an interrupt. The process
        ends with 2 if the configuration cannot be used.
    """
    parser = _parser(prog)
    known = parser.parse_args(arguments)

    from anomalib_crad.benchmark.cells import cells_of
    from anomalib_crad.benchmark.plan_file import read_plan
    from anomalib_crad.benchmark.results import failure_lines
    from anomalib_crad.benchmark.runner import check_patterns, run_benchmark
    from anomalib_crad.benchmark.tables import summary_table

    console = Console()
    output = known.output or Path("results") / "benchmark" / known.config.stem
    try:
        plan = read_plan(known.config)
        check_patterns(cells_of(plan), (*known.select, *known.rerun))
        output.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    # Outside of the block above: an error in a run is not a usage error, and its traceback is needed.
    try:
        results = run_benchmark(plan, output, console, known.select, known.rerun, known.retry_failed)
    except KeyboardInterrupt:
        console.print(f"Stopped. The same command goes on from here; tables so far: {output}", soft_wrap=True)
        return 130
    console.print(summary_table(plan, results))
    failures = failure_lines(results)
    for line in failures:
        console.print(f"Not run: {line}", soft_wrap=True)
    if failures:
        console.print("Once the causes are gone: the same command with --retry-failed.", soft_wrap=True)
    console.print(f"All metrics (tables.md, CSV, JSON) and plots: {output}", soft_wrap=True)
    ran = [result for _, result in results if result is not None]
    return 0 if any("error" not in result for result in ran) else 1


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Compare models on datasets over seeds, under one protocol. A run that is stopped goes on where it "
        "was when it is started again; what has finished is not run twice.",
    )
    example = configuration("benchmark.yaml")
    parser.add_argument("--config", type=Path, required=True, help=f"What to compare, such as {example}.")
    parser.add_argument(
        "--output", type=Path, default=None, help="Folder for results. Default: results/benchmark/<name of the config>."
    )
    parser.add_argument(
        "--select", nargs="+", default=(), metavar="PATTERN", help="Only cells of these names: '*Crad*'."
    )
    parser.add_argument(
        "--rerun",
        nargs="+",
        default=(),
        metavar="PATTERN",
        help="Run these again even if finished, and the cells that measure their cost.",
    )
    parser.add_argument("--retry-failed", action="store_true", help="Run again what has failed.")
    return parser
