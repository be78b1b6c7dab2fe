# SPDX-License-Identifier: Apache-2.0

"""``anomalib-crad package --ckpt_path model.ckpt --output FOLDER ...``: make a package of a checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from anomalib.deploy import CompressionType
from jsonargparse import ArgumentParser
from rich.console import Console

from anomalib_crad.cli.arguments import add_datamodule_arguments, errors_of_use
from anomalib_crad.deploy.checkpoint import load_trained_model
from anomalib_crad.deploy.write import categories_of, choose_sample, write_package

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None, prog: str = "anomalib-crad package") -> int:
    """Make a package of a checkpoint, and print where it is.

    Args:
        arguments: The command line's. Defaults to ``None``: those of this process.
        prog: How the user started this, for the help. Defaults to ``"anomalib-crad package"``.

    Returns:
        Exit code 0. The process ends with 2 if the package cannot be made.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = _parser(arguments, prog)
    parsed = parser.parse_args(arguments)
    with errors_of_use(parser):
        # First, since data may take long to fetch and to look through.
        model = load_trained_model(parsed.ckpt_path, parsed.model)
        datamodule = None if parsed.data is None else parser.instantiate_classes(parsed).data
        sample = parsed.sample or choose_sample(datamodule)
        package = write_package(
            model,
            parsed.output,
            sample,
            checkpoint=parsed.ckpt_path,
            compression_type=parsed.compression_type,
            datamodule=datamodule,
            categories=categories_of(datamodule),
        )
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"Package: {package.folder}")
    console.print(
        f"{package.sample.path.name} is a copy of '{sample}' with its owner's licence. Make sure that the licence "
        "allows it before you pass the folder on.",
    )
    console.print(f"Next: anomalib-crad verify {package.folder}")
    return 0


def _parser(arguments: Sequence[str], prog: str) -> ArgumentParser:
    parser = ArgumentParser(prog=prog, description="Make a folder that holds all a device needs.")
    parser.add_argument("--ckpt_path", type=Path, required=True, help="Checkpoint of a trained model.")
    parser.add_argument("--output", type=Path, required=True, help="The folder to make; it must not exist.")
    parser.add_argument("--model", default="Crad", help="Class of the model.")
    parser.add_argument(
        "--sample",
        type=Path,
        help="Image that goes along, to verify the package with; mind its licence. Default: the first anomalous test "
        "image of --data.",
    )
    parser.add_argument(
        "--compression_type",
        type=CompressionType | None,
        help="As for 'anomalib export'; INT8_PTQ and INT8_ACQ need --data.",
    )
    add_datamodule_arguments(parser, arguments)
    return parser
