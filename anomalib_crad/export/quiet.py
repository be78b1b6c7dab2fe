# SPDX-License-Identifier: Apache-2.0

"""A log that shows what a user can act on.

anomalib's command line shows everything that any library logs, and the ONNX exporter logs every constant that it
merges, hundreds of lines, and NNCF every operation that it leaves as it is. What they warn about, and what NNCF says of
the accuracy, still shows.
"""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

_CHATTY = ("onnx_ir", "onnxscript", "torch.onnx")
_OF_OPERATIONS = ("Not adding activation input quantizer", "ignored nodes were found by name")


@contextmanager
def quiet_quantizer() -> Generator[None, None, None]:
    """Leave out what NNCF logs of the operations that are not quantised."""

    def is_of_use(record: logging.LogRecord) -> bool:
        return not any(part in record.getMessage() for part in _OF_OPERATIONS)

    logger = logging.getLogger("nncf")
    logger.addFilter(is_of_use)
    try:
        yield
    finally:
        logger.removeFilter(is_of_use)


@contextmanager
def quiet_exporter() -> Generator[None, None, None]:
    """Leave out what the ONNX exporter logs below a warning, and deprecations inside it that are not the user's."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
