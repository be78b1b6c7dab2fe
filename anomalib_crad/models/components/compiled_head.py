# SPDX-License-Identifier: Apache-2.0

"""``torch.compile`` for the training step of a head, as an option that steps aside where it cannot work.

Compilation needs a C++ compiler on a CPU and Triton on a GPU, and supports most operations, not all. A missing compiler
or operation is noticed only when a step runs. So the callback runs one step on made-up features before the training,
and trains the plain head if that fails. Nothing else changes: parameters, state dict, random
numbers, validation and exports are those of the plain head.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from lightning.pytorch import Callback
from torch._dynamo.exc import TorchDynamoException

from anomalib_crad.models.components.torch_model import ReconstructionModel

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from anomalib.models.components import AnomalibModule
    from lightning.pytorch import Trainer
    from torch import nn

    from anomalib_crad.models.components.torch_model import TrainingOutput

logger = logging.getLogger(__name__)

#: Images of the step that is tried, if the datamodule does not tell.
DEFAULT_BATCH = 2


class CompiledHead(Callback):
    """Compile the training step of a model's head with ``torch.compile``.

    Whether that is faster depends on the machine (docs/benchmarks/training.md); results agree up to rounding::

        anomalib train --model Crad --trainer.callbacks+=anomalib_crad.CompiledHead

    Without a compiler, or if the head has an operation that cannot be compiled, the log says why and the plain head
    trains.
    """

    def __init__(self) -> None:
        self._model: ReconstructionModel | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: AnomalibModule) -> None:  # type: ignore[override]
        """Compile the step, and try it once.

        Args:
            trainer: The trainer of the run, set up.
            pl_module: The model, on its device.
        """
        self._release()
        model = getattr(pl_module, "model", None)
        if not isinstance(model, ReconstructionModel):
            logger.info("%s has no head that could be compiled.", type(pl_module).__name__)
            return
        compiled = torch.compile(model.training_output)
        reason = _try_step(trainer, model, compiled)
        if not trainer.strategy.reduce_boolean_decision(reason is None):
            logger.warning("The head is not compiled: %s", reason or "another process cannot do it.")
            return
        self._model = model
        model.training_output = self._with_fallback(model, compiled)  # type: ignore[method-assign, assignment]
        logger.info("The training step of the head is compiled.")

    def on_fit_end(self, *args: object, **kwargs: object) -> None:  # noqa: ARG002
        """Give the model its plain step back."""
        self._release()

    def on_exception(self, *args: object, **kwargs: object) -> None:  # noqa: ARG002
        """Do the same for a training that stops in the middle."""
        self._release()

    def _release(self) -> None:
        if self._model is not None:
            vars(self._model).pop("training_output", None)
        self._model = None

    def _with_fallback(
        self, model: ReconstructionModel, compiled: Callable[[torch.Tensor], TrainingOutput]
    ) -> Callable[[torch.Tensor], TrainingOutput]:
        """The compiled step; the plain one from the first failure on, as a batch of another size may bring one."""

        def training_output(features: torch.Tensor) -> TrainingOutput:
            try:
                return compiled(features)
            except TorchDynamoException as error:
                logger.warning("The head is no longer compiled: %s", _first_line(error))
                self._release()
                return model.training_output(features)

        return training_output


def _try_step(
    trainer: Trainer, model: ReconstructionModel, step: Callable[[torch.Tensor], TrainingOutput]
) -> str | None:
    """Run a step forward and backward, and leave no trace of it.

    Returns:
        Why it cannot be run, or ``None`` if it can.
    """
    extractor = model.feature_extractor
    batch = getattr(getattr(trainer, "datamodule", None), "train_batch_size", DEFAULT_BATCH)
    shape = (batch, extractor.out_channels, *extractor.feature_size)
    with _unchanged(model.reconstruction), torch.enable_grad():
        features = torch.rand(shape, device=trainer.strategy.root_device)
        try:
            with trainer.precision_plugin.train_step_context():
                loss = step(features).loss
            loss.backward()
        except TorchDynamoException as error:
            return _first_line(error)
    return None


@contextmanager
def _unchanged(head: nn.Module) -> Generator[None, None, None]:
    """Restore buffers and random numbers, and drop gradients, after a block."""
    buffers = {name: buffer.clone() for name, buffer in head.named_buffers()}
    devices = [value.device for value in list(head.parameters())[:1] if value.device.type == "cuda"]
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        with torch.no_grad():
            for name, buffer in head.named_buffers():
                buffer.copy_(buffers[name])
        head.zero_grad(set_to_none=True)


def _first_line(error: Exception) -> str:
    """What went wrong, without the traces that PyTorch adds."""
    cause = cast("Exception", getattr(error, "inner_exception", None) or error)
    return f"{type(cause).__name__}: {str(cause).strip().splitlines()[0] if str(cause).strip() else 'no message'}"
