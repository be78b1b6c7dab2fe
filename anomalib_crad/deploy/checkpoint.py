# SPDX-License-Identifier: Apache-2.0

"""Load a trained model from its checkpoint, and explain why another file is not a checkpoint.

For a wrong file the messages of Lightning and torch are about pickles and keys of a state dict.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from anomalib.models import AnomalibModule
from anomalib.utils.serialization import anomalib_safe_globals

from anomalib_crad.deploy.package import file_hash
from anomalib_crad.models.components.checkpoints import check_checkpoint_file
from anomalib_crad.post_processing import CategoryPostProcessor

if TYPE_CHECKING:
    from anomalib_crad.post_processing import Thresholds

#: What a constructor and ``load_state_dict`` raise, for another model's checkpoint or for other reasons.
_NOT_BUILT = (RuntimeError, TypeError, KeyError, ValueError)


def load_trained_model(path: str | Path, name: str = "Crad") -> AnomalibModule:
    """Load a model that was trained and validated.

    Args:
        path: Checkpoint of anomalib's engine.
        name: Class of the model. Defaults to ``"Crad"``.

    Returns:
        The model, on the CPU, ready to predict.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a checkpoint, or one of another model or of a model that was never validated; if
            the model cannot be built; or if no model has that name.
    """
    model_class = _model_class(name)
    path = Path(path)
    _check_file(path, model_class)
    try:
        model = model_class.load_from_checkpoint(path, map_location="cpu")
    except _NOT_BUILT as error:
        msg = f"Cannot load '{path}' as a {name}. If another class was trained, name that. {_first_line(error)}"
        raise ValueError(msg) from error
    found_thresholds(model)
    return model.eval()


def describe_checkpoint(path: str | Path, model_class: type[AnomalibModule]) -> dict[str, Any]:
    """Describe a checkpoint: which file it is and how long the model was trained.

    Args:
        path: Checkpoint of anomalib's engine.
        model_class: Class of the model.

    Returns:
        ``file``, ``sha256``, ``epochs`` and ``steps``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a checkpoint of a training.
    """
    path = Path(path)
    _check_file(path, model_class)
    with anomalib_safe_globals(extra=model_class.checkpoint_safe_globals()):
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if not content.keys() >= {"epoch", "global_step"}:
        msg = f"'{path}' does not say how long it was trained (epoch, global_step). Pass the file of the training."
        raise ValueError(msg)
    return {
        "file": path.name,
        "sha256": file_hash(path),
        "epochs": content["epoch"] + 1,
        "steps": content["global_step"],
    }


def found_thresholds(model: AnomalibModule) -> Thresholds:
    """Return the thresholds of a model; they exist if it was trained and validated.

    Args:
        model: The model.

    Returns:
        Its thresholds.

    Raises:
        ValueError: If the model has none, or does not squash its scores around them.
    """
    processor = model.post_processor
    if not isinstance(processor, CategoryPostProcessor):
        msg = (
            f"The model's post_processor is {type(processor).__name__}. A package needs the thresholds of "
            "CategoryPostProcessor: give it to the model and run Engine.validate."
        )
        raise ValueError(msg)  # noqa: TRY004 - the type of a value's attribute
    if processor.thresholds.pooled.image is None:
        msg = (
            "The model has no thresholds: it was not trained, or not validated since. Train it with 'anomalib train', "
            "or run Engine.validate on a trained one."
        )
        raise ValueError(msg)
    if not processor.enable_normalization or not processor.enable_thresholding:
        msg = (
            "The post_processor must have enable_normalization=True and enable_thresholding=True, so that each device "
            "gives scores with the threshold at 0.5, and labels."
        )
        raise ValueError(msg)
    return processor.thresholds


def _check_file(path: Path, model_class: type[AnomalibModule]) -> None:
    if not path.is_file():
        msg = f"There is no checkpoint '{path}'."
        raise FileNotFoundError(msg)
    # Checked here for every model, because the error of anomalib's models is torch's.
    check_checkpoint_file(path, model_class.checkpoint_safe_globals())


def _model_class(name: str) -> type[AnomalibModule]:
    """Find a model as anomalib does: among the imported classes."""
    import anomalib_crad.models  # noqa: F401 - registers our models if the plugin is switched off

    known = {model.__name__: model for model in AnomalibModule.__subclasses__()}
    if name not in known:
        msg = f"There is no model '{name}'; known: {', '.join(sorted(known))}."
        raise ValueError(msg)
    return known[name]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
