# SPDX-License-Identifier: Apache-2.0

"""What our commands share: a datamodule on the command line, and errors without a traceback.

A datamodule is given as for anomalib's own commands: as ``--data`` with its arguments, or in the configuration of a
training, of which a command reads the section ``data`` only.
"""

from __future__ import annotations

import argparse
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from jsonargparse import ArgumentParser


@contextmanager
def errors_of_use(parser: argparse.ArgumentParser) -> Generator[None, None, None]:
    """End the process with code 2 and the text of an error that the user can mend, as for a wrong argument.

    Args:
        parser: The parser of the command.
    """
    try:
        yield
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        parser.error(str(error))


def add_datamodule_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """Add ``--config`` and ``--data`` to a parser, neither required. The process ends with 2 if the former is unusable.

    Args:
        parser: The parser of the command.
        arguments: The command line that it is going to parse; the configuration named there sets the defaults of
            ``--data``.
    """
    from anomalib.data import AnomalibDataModule  # torch comes with it, and some commands do without

    parser.add_argument("--config", type=Path, help="Configuration of a training; only its section `data` is read.")
    parser.add_subclass_arguments(AnomalibDataModule, "data", required=False, help="The datamodule, as for a training.")
    config = _config_path(arguments)
    if config is not None:
        parser.set_defaults({"data": _data_section(config, parser)})


def _config_path(arguments: Sequence[str]) -> Path | None:
    """Find the configuration before the other arguments are parsed."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    return parser.parse_known_args(arguments)[0].config


def _data_section(config: Path, parser: ArgumentParser) -> Any:  # noqa: ANN401 - as the file has it
    from omegaconf import OmegaConf

    if not config.is_file():
        parser.error(f"--config: there is no file '{config}'.")
    content = OmegaConf.to_container(OmegaConf.load(config))
    if not isinstance(content, dict) or "data" not in content:
        parser.error(f"--config: '{config}' has no section `data`.")
    return content["data"]
