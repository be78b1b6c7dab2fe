# SPDX-License-Identifier: Apache-2.0

"""``anomalib-crad quickstart``: train, test, picture, export and compare, in one command.

It uses anomalib's own command line, engine and exporter as a user would by hand, on real images and real features that
come as packages.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from anomalib_crad.files import configuration

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None, prog: str = "anomalib-crad quickstart") -> int:
    """Run the quick start.

    Args:
        arguments: The command line's; anything but ``--config`` goes on to ``anomalib train``. Defaults to ``None``:
            those of this process.
        prog: How the user started this, for the help. Defaults to ``"anomalib-crad quickstart"``.

    Returns:
        Exit code 0.

    Raises:
        FileNotFoundError: If the configuration does not exist.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Train CRAD on solar cells of two kinds, test it, export it to OpenVINO and compare the two.",
        epilog="Further arguments go to 'anomalib train'. A trial of less than a minute, too short to learn anything: "
        "--trainer.max_epochs 1 --model.num_blocks 2 --model.hidden_channels 32 --data.max_train_images 16 "
        "--data.max_test_images 8",
    )
    default = configuration("quickstart.yaml")
    parser.add_argument("--config", type=Path, default=default, help="Configuration. Default: %(default)s")
    known, further = parser.parse_known_args(arguments)
    run(known.config, further)
    return 0


def run(config: Path, arguments: Sequence[str] = ()) -> Path:
    """Train and test as configured, export, and compare the export with the trained model.

    Args:
        config: Configuration of ``anomalib train``.
        arguments: Further arguments of ``anomalib train``.

    Returns:
        Folder of the results.

    Raises:
        FileNotFoundError: If the configuration does not exist.
    """
    if not config.is_file():
        msg = f"There is no configuration '{config}'; pass one with --config."
        raise FileNotFoundError(msg)
    # Not at the top, so that --help does not wait for torch, whose import warns.
    warnings.simplefilter("ignore", FutureWarning)
    from anomalib.cli.cli import AnomalibCLI

    from anomalib_crad.deploy import compare_with_openvino
    from anomalib_crad.prediction import CollectedPredictions
    from anomalib_crad.visualization import save_overview

    console = Console()
    _leave_out_warnings_without_remedy()
    console.rule("1/3  Train and test")
    collecting = f"--trainer.callbacks+={CollectedPredictions.__module__}.{CollectedPredictions.__name__}"
    cli = AnomalibCLI(["train", "--config", str(config), collecting, *arguments])
    trainer = cli.engine.trainer
    folder = Path(trainer.default_root_dir)
    callbacks = trainer.callbacks  # type: ignore[attr-defined]  # set by one of Lightning's connectors
    (collected,) = (callback for callback in callbacks if isinstance(callback, CollectedPredictions))

    console.rule("2/3  Export to OpenVINO")
    checkpoint = str(cli.engine.best_model_path)
    exported = cli.model.to_openvino(folder)

    console.rule("3/3  Compare the exported model with the checkpoint")
    agreement = compare_with_openvino(collected.predictions, exported)
    agreement.table.to_csv(folder / "openvino_agreement.csv", index=False)
    overview = save_overview(collected.predictions, cli.datamodule.test_data.samples, folder / "overview.png")

    console.rule("Done")
    console.print(f"OpenVINO against PyTorch: {agreement}", soft_wrap=True)
    _print_paths(console, folder, overview, checkpoint, exported)
    same = " (and the same --model arguments)" if arguments else ""
    command = f"anomalib predict --config {config} --data FOLDER --ckpt_path {checkpoint}"
    console.print(f"Next, with images of yours{same}: {command}", soft_wrap=True)
    return folder


def _print_paths(console: Console, folder: Path, overview: Path, checkpoint: str, exported: Path) -> None:
    paths = {
        "Metrics": folder / "category_metrics.csv",
        "Heat maps": folder / "images",
        "Overview": overview,
        "Checkpoint": checkpoint,
        "OpenVINO": exported,
    }
    for name, path in paths.items():
        console.print(f"{name + ':':<12}{path}", soft_wrap=True)


def _leave_out_warnings_without_remedy() -> None:
    """Silence warnings that a user cannot act on: about libraries, the frozen backbone and absent masks."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
    warnings.filterwarnings("ignore", message="The ``compute`` method of metric F1Score was called before")
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
