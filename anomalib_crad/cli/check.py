# SPDX-License-Identifier: Apache-2.0

"""Inspect the images of a datamodule before training: `anomalib-crad check --data MultiCategory ...`.

Takes the arguments of any of anomalib's image datamodules, as for a training, or the configuration of a training.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser
from rich.console import Console

from anomalib_crad.cli.arguments import add_datamodule_arguments, errors_of_use
from anomalib_crad.data import check_datamodule

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None, prog: str = "anomalib-crad check") -> int:
    """Check the datamodule that the command line describes, and print the report.

    Args:
        arguments: Arguments of the command line. Defaults to ``None``: those of this process.
        prog: The command that the user gave, for the help. Defaults to ``"anomalib-crad check"``.

    Returns:
        Exit code: 1 if there are errors, else 0. The process ends with 2 if there is nothing to check.
    """
    parser = ArgumentParser(prog=prog, description="Look at all images before training.")
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    add_datamodule_arguments(parser, arguments)
    parsed = parser.parse_args(arguments)
    if parsed.data is None:
        parser.error("Give a datamodule with --data, or a configuration with --config.")
    with errors_of_use(parser):
        report = check_datamodule(parser.instantiate_classes(parsed).data, progress=True)
    Console().print(report)
    return 1 if report.errors else 0
