# SPDX-License-Identifier: Apache-2.0

"""``anomalib-crad verify PACKAGE``: does a package work on this device?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser
from rich.console import Console

from anomalib_crad.cli.arguments import errors_of_use

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None, prog: str = "anomalib-crad verify") -> int:
    """Check that a package is whole and that its model gives the expected score here; print the outcome.

    Args:
        arguments: The command line's. Defaults to ``None``: those of this process.
        prog: How the user started this, for the help. Defaults to ``"anomalib-crad verify"``.

    Returns:
        Exit code: 0 if the scores agree, 1 if they do not. The process ends with 2 if the package is incomplete or
        cannot be run.
    """
    parser = ArgumentParser(prog=prog, description="Run a package's sample on this device.")
    parser.add_argument("package", type=Path, help="The package.")
    parser.add_argument("--device", default="CPU", help="OpenVINO's device.")
    parsed = parser.parse_args(arguments)

    from anomalib_crad.deploy import verify_package  # after the arguments, so that --help does not wait for torch

    with errors_of_use(parser):
        verification = verify_package(parsed.package, parsed.device)
    Console(soft_wrap=True).print(str(verification))
    return 0 if verification.agrees else 1
