# SPDX-License-Identifier: Apache-2.0

"""Is a file a checkpoint at all? PyTorch's answer to one that is not is about zip archives and keys of dictionaries."""

from __future__ import annotations

import pickle  # noqa: S403  # for the name of its error; nothing is unpickled here
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from anomalib.utils.serialization import anomalib_safe_globals

if TYPE_CHECKING:
    from collections.abc import Sequence

_KEYS = {"state_dict", "pytorch-lightning_version"}


def check_checkpoint_file(path: str | Path, safe_globals: Sequence[Any] = ()) -> None:
    """See that a file is a whole checkpoint of a training; tensors are not read.

    Args:
        path: The file. One that does not exist, or an address in the network, is left to who opens it.
        safe_globals: Types beside anomalib's that it may hold. Defaults to ``()``.

    Raises:
        ValueError: If it is something else, or only a part of one.
    """
    if not Path(path).is_file():
        return
    advice = "Pass the file that a training has written: weights/lightning/model.ckpt in the folder of the run."
    if not zipfile.is_zipfile(path):
        msg = f"'{path}' is not a checkpoint, or its end is missing (a copy or a training that broke off). {advice}"
        raise ValueError(msg)
    try:
        with anomalib_safe_globals(extra=safe_globals):
            content = torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        msg = f"'{path}' holds something else than a checkpoint, such as an exported model. {advice}"
        raise ValueError(msg) from error
    if not isinstance(content, dict) or not content.keys() >= _KEYS:
        msg = f"'{path}' holds data, but not of a training (weights alone do not say which model they are of). {advice}"
        raise ValueError(msg)
