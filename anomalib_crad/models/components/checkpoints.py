# SPDX-License-Identifier: Apache-2.0

"""A checkpoint fits the model that it is loaded into, or an error names the arguments to give.

anomalib builds a model from the command line's arguments and loads the checkpoint's tensors into it. Where the two
differ torch would list tensors; here the user is told what to write.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule

from anomalib_crad.export.checks import check_checkpoint
from anomalib_crad.models.components.checkpoint_file import check_checkpoint_file
from anomalib_crad.models.components.weights import architecture_of

if TYPE_CHECKING:
    from typing_extensions import Self


class ArchitectureCheck(LightningModule):
    """Mixin for an ``AnomalibModule``.

    Attributes:
        architecture_arguments: Constructor arguments that decide about a checkpoint's tensors: about their shapes,
            or about what they were trained for.
    """

    architecture_arguments: tuple[str, ...]

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # anomalib's signature, not Lightning's
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,  # noqa: ANN401  # as torch.load
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool = True,
        **kwargs: Any,  # noqa: ANN401
    ) -> "Self":
        """Build the model that a checkpoint is of, and load it.

        Args:
            checkpoint_path: The checkpoint.
            map_location: Device to load to. Defaults to ``None``: as it was saved.
            hparams_file: Arguments in a file of their own. Defaults to ``None``: those in the checkpoint.
            strict: Whether all tensors must fit. Defaults to ``None``: yes.
            weights_only: Allow plain data and anomalib's own types only. Defaults to ``True``.
            **kwargs: Arguments of the model that win over the checkpoint's.

        Returns:
            The model.

        Raises:
            ValueError: If the file is not a checkpoint, or one of another model.
        """
        if weights_only:
            check_checkpoint_file(checkpoint_path, cls.checkpoint_safe_globals())  # type: ignore[attr-defined]
        return super().load_from_checkpoint(
            checkpoint_path,
            map_location=map_location,
            hparams_file=hparams_file,
            strict=strict,
            weights_only=weights_only,
            **kwargs,
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with loading, if the checkpoint is of a model that was built like this one.

        Args:
            checkpoint: What Lightning saved.

        Raises:
            ValueError: If it is of a model of another architecture, naming the arguments that differ, or of another
                model altogether.
        """
        saved = checkpoint.get("hyper_parameters", {})
        different = [
            name
            for name in self.architecture_arguments
            if name in saved and _architecture_value(name, saved[name]) != _architecture_value(name, self.hparams[name])
        ]
        if different:
            arguments = " ".join(f"--model.{name}={saved[name]}".replace(", ", ",") for name in different)
            msg = (
                f"The checkpoint is of a model with other {', '.join(different)}. Build the model as it was trained "
                f"(command line: {arguments}), or take {type(self).__name__}.load_from_checkpoint, which reads the "
                "arguments from it."
            )
            raise ValueError(msg)
        check_checkpoint(type(self).__name__, self.state_dict(), checkpoint)
        super().on_load_checkpoint(checkpoint)


def _architecture_value(name: str, value: Any) -> Any:  # noqa: ANN401  # any argument's
    """What of an argument decides about tensors: not the tag of a backbone's weights, nor the kind of a list."""
    if name == "backbone":
        return architecture_of(value)
    return list(value) if isinstance(value, Sequence) else value
