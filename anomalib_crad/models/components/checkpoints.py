# SPDX-License-Identifier: Apache-2.0

"""Check that a file is a checkpoint and fits the model that loads it; errors say what to do.

PyTorch's errors for a wrong file are about zip archives and keys of dictionaries. anomalib builds a model from the
command line's arguments and loads the checkpoint's tensors into it; where the two differ, torch would list tensors.
The errors here name the file or the arguments instead.
"""

from __future__ import annotations

import pickle  # noqa: S403  # for the name of its error; nothing is unpickled here
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from anomalib.utils.serialization import anomalib_safe_globals

from anomalib_crad.models.components.weights import architecture_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, MutableMapping

_KEYS = {"state_dict", "pytorch-lightning_version"}


class DeprecatedArgumentWarning(FutureWarning):
    """An argument of a model will be removed in the next release; not shown when it comes from an old checkpoint."""


def plain_data(value: Any) -> Any:  # noqa: ANN401  # any argument's
    """Turn an argument into what a checkpoint may hold: paths become strings, sequences of any kind lists.

    Args:
        value: An argument of a model, such as one of omegaconf's lists.

    Returns:
        The same as plain data.
    """
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain_data(item) for item in value]
    return value


def check_checkpoint_file(path: str | Path, safe_globals: Sequence[Any] = ()) -> None:
    """Check that a file is a whole checkpoint of a training, without reading its tensors.

    Args:
        path: The file. A file that does not exist or an address in the network passes: whoever opens it reports that.
        safe_globals: Types beside anomalib's that it may hold. Defaults to ``()``.

    Raises:
        ValueError: If it is something else, or only a part of a checkpoint.
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


def check_architecture(model_name: str, names: Iterable[str], own: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Check that a checkpoint is of a model that was built with the same arguments.

    Args:
        model_name: Class of the model.
        names: Arguments that decide about the tensors. Those that the checkpoint lacks are not compared.
        own: Arguments of the model.
        saved: Arguments in the checkpoint.

    Raises:
        ValueError: If some differ, naming them and their values in the checkpoint.
    """
    different = [name for name in names if name in saved and _compared(name, saved[name]) != _compared(name, own[name])]
    if different:
        arguments = " ".join(f"--model.{name}={saved[name]}".replace(", ", ",") for name in different)
        msg = (
            f"The checkpoint is of a model with other {', '.join(different)}. Build the model as it was trained "
            f"(command line: {arguments}), or take {model_name}.load_from_checkpoint, which reads the "
            "arguments from it."
        )
        raise ValueError(msg)


def _compared(name: str, value: Any) -> Any:  # noqa: ANN401  # any argument's
    """The part of an argument that determines tensors; the tag of a backbone's weights does not."""
    return architecture_of(value) if name == "backbone" else plain_data(value)


def check_tensors(model_name: str, own: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> None:
    """Check that a checkpoint holds the tensors of a model's network.

    Args:
        model_name: Class of the model.
        own: State dict of the model.
        checkpoint: What was read.

    Raises:
        ValueError: If tensors of the network itself are missing from it or unknown to the model.
    """
    saved = checkpoint.get("state_dict")
    names = {name for name in saved if name.startswith("model.")} if isinstance(saved, dict) else set()
    expected = {name for name in own if name.startswith("model.")}
    if names != expected:
        example = min(expected - names or names - expected)
        msg = (
            f"The checkpoint is not one of {model_name}: {len(expected - names)} of the {len(expected)} tensors of its "
            f"network are missing and {len(names - expected)} are unknown (such as '{example}'). Pass a checkpoint "
            f"that a training of {model_name} has written (weights/lightning/model.ckpt in the folder of the run)."
        )
        raise ValueError(msg)


def rename_tensors(state_dict: MutableMapping[str, Any], renamed: Mapping[str, str]) -> None:
    """Give tensors of an older release the names of this one.

    Args:
        state_dict: Tensors by name; changed in place, in the same order.
        renamed: What the ends of names were (regular expressions), and what they are now.
    """
    for name in list(state_dict):
        new = name
        for old_end, new_end in renamed.items():
            new = re.sub(f"{old_end}$", new_end, new)
        state_dict[new] = state_dict.pop(name)
