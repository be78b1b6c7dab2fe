# SPDX-License-Identifier: Apache-2.0

"""The commands ``package``, ``verify`` and ``stream`` of ``python -m anomalib_crad``.

Exit code 2 is a plain error before anything was computed, as for any command line; 1 is a result that is not good.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from anomalib.deploy import CompressionType
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.logging import RichHandler

from anomalib_crad.data.arguments import add_datamodule_arguments
from anomalib_crad.deploy.checkpoint import load_trained_model
from anomalib_crad.deploy.edge_model import EdgeModel
from anomalib_crad.deploy.package import EdgePackage
from anomalib_crad.deploy.packaging import write_package
from anomalib_crad.deploy.sample import category_names, choose_sample
from anomalib_crad.deploy.stream_folder import RESULTS, Overlays, stream_folder
from anomalib_crad.deploy.verification import verify_package

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "python -m anomalib_crad"
_PLAIN_ERRORS = (ImportError, OSError, RuntimeError, ValueError)


def package(arguments: Sequence[str]) -> int:
    """Make a package of a checkpoint.

    Args:
        arguments: The command line's.

    Returns:
        Exit code 0; the process ends with 2 after an error.
    """
    parser = ArgumentParser(prog=f"{PROGRAM} package", description="Make a folder that holds all a device needs.")
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
    parsed = parser.parse_args(arguments)
    try:
        datamodule = None if parsed.data is None else parser.instantiate_classes(parsed).data
        sample = parsed.sample or choose_sample(datamodule)
        made = write_package(
            load_trained_model(parsed.ckpt_path, parsed.model),
            parsed.output,
            sample,
            checkpoint=parsed.ckpt_path,
            compression_type=parsed.compression_type,
            datamodule=datamodule,
            categories=category_names(datamodule),
        )
    except _PLAIN_ERRORS as error:
        parser.error(str(error))
    console = Console()
    console.print(f"Package: {made.folder}", soft_wrap=True, highlight=False)
    console.print(
        f"{made.sample.path.name} is a copy of an image with its owner's licence. Make sure that the licence allows it "
        "before you pass the folder on.",
        soft_wrap=True,
    )
    console.print(f"Next: {PROGRAM} verify {made.folder}", soft_wrap=True, highlight=False)
    return 0


def verify(arguments: Sequence[str]) -> int:
    """Look whether a package is whole and computes what it should.

    Args:
        arguments: The command line's.

    Returns:
        Exit code: 0 if it does, 1 if it does not; the process ends with 2 if it cannot be run.
    """
    parser = ArgumentParser(prog=f"{PROGRAM} verify", description="Run a package's sample on this device.")
    parser.add_argument("package", type=Path, help="The package.")
    parser.add_argument("--device", default="CPU", help="OpenVINO's device.")
    parsed = parser.parse_args(arguments)
    try:
        verification = verify_package(parsed.package, parsed.device)
    except _PLAIN_ERRORS as error:
        parser.error(str(error))
    Console().print(str(verification), soft_wrap=True)
    return 0 if verification.agrees else 1


def stream(arguments: Sequence[str]) -> int:
    """Run a package on a folder of images.

    Args:
        arguments: The command line's.

    Returns:
        Exit code: 0, or 1 if no image could be read; the process ends with 2 after an error.
    """
    parser = ArgumentParser(prog=f"{PROGRAM} stream", description="Run a package on a folder of images.")
    parser.add_argument("package", type=Path, help="The package.")
    parser.add_argument("--images", type=Path, required=True, help="Folder of images, searched with its folders.")
    parser.add_argument("--output", type=Path, required=True, help=f"Folder for {RESULTS} and overlay pictures.")
    parser.add_argument("--overlays", default="all", choices=get_args(Overlays), help="Which images to draw.")
    parser.add_argument("--category", help="Category of the images, whose own threshold then decides.")
    parser.add_argument("--device", default="CPU", help="OpenVINO's device.")
    parsed = parser.parse_args(arguments)
    progress = Console(stderr=True)
    handler = RichHandler(console=progress, show_time=False, show_path=False)
    warnings = logging.getLogger("anomalib_crad.deploy")
    warnings.addHandler(handler)
    try:
        model = EdgeModel(EdgePackage.open(parsed.package), parsed.device, parsed.category, throughput=True)
        summary = stream_folder(model, parsed.images, parsed.output, parsed.overlays, progress)
    except _PLAIN_ERRORS as error:
        parser.error(str(error))
    finally:
        warnings.removeHandler(handler)
    Console().print(f"{summary} {parsed.output / RESULTS}", soft_wrap=True, highlight=False)
    return 0 if summary.images else 1
