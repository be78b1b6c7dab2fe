# SPDX-License-Identifier: Apache-2.0

"""The exporter's chatter is left out, its warnings are not, and all is as before afterwards."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

from anomalib_crad.export.quiet import quiet_exporter, quiet_quantizer

if TYPE_CHECKING:
    import pytest


def test_only_chatter_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("onnx_ir.passes.common")
    with caplog.at_level(logging.INFO):
        with quiet_exporter():
            logger.info("merged a constant")
            logger.warning("cannot be exported")
            logging.getLogger("anomalib").info("exported")
        logger.info("afterwards")
    assert [record.getMessage() for record in caplog.records] == ["cannot be exported", "exported", "afterwards"]


def test_what_is_said_of_operations_is_left_out() -> None:
    logger, said = logging.getLogger("nncf"), []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    listener = Listener()
    logger.addHandler(listener)
    with quiet_quantizer():
        logger.warning("Not adding activation input quantizer for operation: 7 pred_score")
        logger.warning("91 ignored nodes were found by names in the NNCFGraph")
        logger.warning("Accuracy drop: 0.01")
    logger.warning("Not adding activation input quantizer for operation: 8 pred_label")
    logger.removeHandler(listener)
    assert [message[:12] for message in said] == ["Accuracy dro", "Not adding a"]


def test_deprecations_inside_the_exporter_are_not_the_users() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet_exporter():
            warnings.warn("old function", DeprecationWarning, stacklevel=1)
            warnings.warn("wrong result", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["wrong result"]
