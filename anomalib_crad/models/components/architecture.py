# SPDX-License-Identifier: Apache-2.0

"""A checkpoint fits the model that it is loaded into, or an error names the arguments to give.

anomalib builds a model from the command line's arguments and loads the checkpoint's tensors into it. Where the two
differ torch would list tensors; here the user is told what to write.
"""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningModule

from .weights import architecture_of


class ArchitectureCheck(LightningModule):
    """Mixin for an ``AnomalibModule``.

    Attributes:
        architecture_arguments: Constructor arguments that decide about a checkpoint's tensors: about their shapes,
            or about what they were trained for.
    """

    architecture_arguments: tuple[str, ...]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with loading, if the checkpoint is of a model that was built like this one.

        Args:
            checkpoint: What Lightning saved.

        Raises:
            ValueError: If it is of a model of another architecture, naming the arguments that differ.
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
        super().on_load_checkpoint(checkpoint)


def _architecture_value(name: str, value: Any) -> Any:  # noqa: ANN401  # any argument's
    """What of an argument decides about tensors: not the tag of a backbone's weights, nor the kind of a list."""
    if name == "backbone":
        return architecture_of(value)
    return list(value) if isinstance(value, Sequence) else value
