# SPDX-License-Identifier: Apache-2.0

"""A datamodule on the command line of a command of ours, given as anomalib's own commands take it.

Either as ``--data`` with its arguments, or in the configuration of a training, whose other sections are not read.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalib.data import AnomalibDataModule
from omegaconf import OmegaConf

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jsonargparse import ArgumentParser


def add_datamodule_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """Add ``--config`` and ``--data`` to a parser; neither is required. The process ends if the former is no good.

    Args:
        parser: The parser of the command.
        arguments: What it is going to parse: a configuration holds the defaults of the rest.
    """
    parser.add_argument("--config", type=Path, help="Configuration of a training; only its section `data` is read.")
    parser.add_subclass_arguments(AnomalibDataModule, "data", required=False, help="The datamodule, as for a training.")
    config = _config_path(arguments)
    if config is not None:
        parser.set_defaults({"data": _data_section(config, parser)})


def _config_path(arguments: Sequence[str]) -> Path | None:
    """Find the configuration before the rest is parsed."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    return parser.parse_known_args(arguments)[0].config


def _data_section(config: Path, parser: ArgumentParser) -> Any:  # noqa: ANN401 - as the file has it
    if not config.is_file():
        parser.error(f"--config: there is no file '{config}'.")
    content = OmegaConf.to_container(OmegaConf.load(config))
    if not isinstance(content, dict) or "data" not in content:
        parser.error(f"--config: '{config}' has no section `data`.")
    return content["data"]
