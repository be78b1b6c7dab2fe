# SPDX-License-Identifier: Apache-2.0

"""A trained model from its checkpoint, with plain words for what is none.

Lightning and torch speak of pickles and keys of a state dict where a user has named the wrong file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from anomalib.models import AnomalibModule

from anomalib_crad.models.components.checkpoint_file import check_checkpoint_file
from anomalib_crad.post_processing import CategoryPostProcessor

if TYPE_CHECKING:
    from anomalib_crad.post_processing import Thresholds

#: What a constructor, ``load_state_dict`` and our models say of another model's checkpoint.
_OTHER_MODEL = (RuntimeError, TypeError, KeyError, ValueError)


def load_trained_model(path: str | Path, name: str = "Crad") -> AnomalibModule:
    """Load a model that was trained and validated.

    Args:
        path: Checkpoint of anomalib's engine.
        name: Class of the model. Defaults to ``"Crad"``.

    Returns:
        The model, on the CPU, ready to predict.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint, or of another model, or of one that was never validated; or no model has
            that name.
    """
    model_class = _model_class(name)
    path = Path(path)
    if not path.is_file():
        msg = f"There is no checkpoint '{path}'."
        raise FileNotFoundError(msg)
    # Of any model: anomalib's own would answer with torch's words.
    check_checkpoint_file(path, model_class.checkpoint_safe_globals())
    try:
        model = model_class.load_from_checkpoint(path, map_location="cpu")
    except _OTHER_MODEL as error:
        msg = f"'{path}' is no checkpoint of {name}. Name the class that was trained. {_first_line(error)}"
        raise ValueError(msg) from error
    found_thresholds(model)
    return model.eval()


def found_thresholds(model: AnomalibModule) -> Thresholds:
    """Return the thresholds of a model, which tell that it was trained and validated.

    Args:
        model: The model.

    Returns:
        Its thresholds.

    Raises:
        ValueError: If there are none, or the model does not squash its scores around them.
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


def _model_class(name: str) -> type[AnomalibModule]:
    """Find a model as anomalib does, among the classes that are imported."""
    import anomalib_crad.models  # noqa: F401 - registers ours where the plugin is switched off

    known = {model.__name__: model for model in AnomalibModule.__subclasses__()}
    if name not in known:
        msg = f"There is no model '{name}'; known: {', '.join(sorted(known))}."
        raise ValueError(msg)
    return known[name]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
