# SPDX-License-Identifier: Apache-2.0

"""How our models train: defaults that give way to the trainer's flags, and runs that repeat.

anomalib forces a model's ``trainer_arguments`` over the user's flags, and Lightning trains 1000 epochs where nobody
sets a number. These functions set a method's own values only where the user set none. They also seed a run (anomalib
ignores ``--seed_everything``), and let a checkpoint resume as if training had not stopped.
:class:`.lightning_model.FeatureReconstruction` calls them.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.utilities.seed import seed_everything
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import distributed
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from anomalib_crad.freed_memory import keep_freed_memory, return_freed_memory
from anomalib_crad.recording.processes import gather_everywhere, several_processes

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from lightning.pytorch import Trainer
    from torch.optim import Optimizer
    from torch.utils.data import Dataset

logger = logging.getLogger(__name__)

LR_DROP = 0.1
MAX_SEED = 2**32 - 1


def check_training_arguments(
    learning_rates: Mapping[str, float],
    weight_decay: float,
    max_epochs: int,
    lr_step: int | None,
    seed: int | None,
) -> None:
    """Reject values with which training cannot work.

    Args:
        learning_rates: Learning rates by the name of their argument.
        weight_decay: Weight decay.
        max_epochs: Epochs.
        lr_step: Epoch of the drop, or ``None``.
        seed: Seed, or ``None``.

    Raises:
        ValueError: Naming the argument and its value.
    """
    for name, value in learning_rates.items():
        if not value > 0:  # this rejects NaN, too
            msg = f"{name} must be greater than 0, got {value}."
            raise ValueError(msg)
    if not weight_decay >= 0:
        msg = f"weight_decay must be at least 0, got {weight_decay}."
        raise ValueError(msg)
    if max_epochs < 1:
        msg = f"max_epochs must be at least 1, got {max_epochs}."
        raise ValueError(msg)
    if lr_step is not None and lr_step < 1:
        msg = f"lr_step is an epoch and must be at least 1, got {lr_step}."
        raise ValueError(msg)
    if seed is not None and not 0 <= seed <= MAX_SEED:
        msg = f"seed must be from 0 to {MAX_SEED}, got {seed}."
        raise ValueError(msg)


@contextmanager
def random_numbers_of(seed: int | None) -> Generator[None]:
    """Draw random numbers from a seed, without changing those that are drawn afterwards.

    Args:
        seed: The seed. ``None`` changes nothing.
    """
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield


def seed_training(seed: int, rank: int) -> None:
    """Seed everything that a training draws.

    Args:
        seed: The seed.
        rank: Rank of this process. All processes share the order of images, but each draws noise of its own.
    """
    seed_everything(seed, workers=True)
    if rank > 0:
        torch.manual_seed(seed + rank)


def set_default_epochs(trainer: Trainer, max_epochs: int) -> None:
    """Limit a training that the user has not limited.

    Args:
        trainer: A trainer that is about to fit.
        max_epochs: Epochs to train where neither epochs, steps nor time are set on the trainer.
    """
    timed = any(isinstance(callback, Timer) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    if trainer.max_epochs is None and trainer.max_steps == -1 and not timed:
        trainer.fit_loop.max_epochs = max_epochs


def epochs_to_train(trainer: Trainer, max_epochs: int) -> int:
    """Return the trainer's number of epochs, or ``max_epochs`` where it limits the training by steps or time."""
    epochs = trainer.max_epochs
    return max_epochs if epochs is None or epochs < 1 else epochs


def adamw(groups: list[dict[str, Any]], weight_decay: float, trainer: Trainer) -> AdamW:
    """AdamW that updates all parameters in one pass where it can.

    PyTorch has such an update for a CPU and for CUDA. Mixed precision goes without it, because Lightning does not clip
    gradients for it there. A checkpoint, whatever its run used, does not change the choice.

    Args:
        groups: Groups of parameters, each with a learning rate ``lr``.
        weight_decay: Weight decay of all groups.
        trainer: The trainer of the run.

    Returns:
        The optimizer.
    """
    mixed = isinstance(trainer.precision_plugin, MixedPrecision)
    fused = True if trainer.strategy.root_device.type in {"cpu", "cuda"} and not mixed else None
    optimizer = AdamW(groups, weight_decay=weight_decay, fused=fused)

    def keep_choice(_: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        return {**state_dict, "param_groups": [{**group, "fused": fused} for group in state_dict["param_groups"]]}

    optimizer.register_load_state_dict_pre_hook(keep_choice)
    return optimizer


def training_loader(trainer: Trainer, name: str) -> DataLoader:
    """Return the loader of training images, for models that look at them before the first step.

    Args:
        trainer: The trainer of the run.
        name: Name of the model.

    Raises:
        TypeError: If the trainer has several loaders, or one of another kind.
    """
    loader = trainer.train_dataloader
    if not isinstance(loader, DataLoader):
        msg = f"{name} needs one DataLoader of training images, got {type(loader).__name__}."
        raise TypeError(msg)
    return loader


def loader_like(loader: DataLoader, dataset: Dataset, *, default_batch_size: int, shuffle: bool = False) -> DataLoader:
    """Read a dataset as a loader reads its own, for a pass outside the training.

    Args:
        loader: Loader whose batch size, workers and collation are used.
        dataset: What to read.
        default_batch_size: Size of a batch where the loader's batches have no fixed size.
        shuffle: Read in random order. Defaults to ``False``.

    Returns:
        The new loader.
    """
    return DataLoader(
        dataset,
        batch_size=loader.batch_size or default_batch_size,
        shuffle=shuffle,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
    )


class DropSchedule(LambdaLR):
    """Learning rates that drop to a tenth, once.

    A checkpoint neither moves the drop nor changes the rates: a run that resumes with other arguments or another number
    of epochs continues as a run with these would. torch's step schedulers restore both from the checkpoint.

    Args:
        optimizer: The optimizer.
        step: Epoch from which all rates are a tenth.
    """

    def __init__(self, optimizer: Optimizer, step: int) -> None:
        super().__init__(optimizer, lambda epoch: LR_DROP if epoch >= step else 1.0)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume at the epoch of a checkpoint, with the rates of this run.

        Lightning loads the optimizer's state, which holds the rates of the earlier run, before it calls this.

        Args:
            state_dict: State of a scheduler.
        """
        rates = self.base_lrs
        super().load_state_dict(state_dict)
        self.base_lrs = rates
        for group, rate, factor in zip(self.optimizer.param_groups, rates, self.lr_lambdas, strict=True):
            group["lr"] = rate * factor(self.last_epoch)


def drop_schedule(optimizer: Optimizer, epochs: int, lr_step: int | None, share: float) -> DropSchedule:
    """Schedule the drop of the learning rates.

    Args:
        optimizer: The optimizer.
        epochs: Epochs to train.
        lr_step: Epoch of the drop, or ``None``.
        share: Share of ``epochs`` after which the rates drop if ``lr_step`` is ``None``.

    Returns:
        The scheduler, to be stepped by epoch.
    """
    if lr_step is None:
        return DropSchedule(optimizer, max(round(share * epochs), 1))
    if lr_step >= epochs:
        logger.warning("lr_step=%d is not before the end (%d epochs): learning rates never drop.", lr_step, epochs)
    return DropSchedule(optimizer, lr_step)


class LastEpochValidation:
    """Validates the last epoch, whatever the validation interval is.

    Thresholds and the checkpoint come from the last validation; what is trained after it would be lost.
    """

    def __init__(self) -> None:
        self._interval: int | None = None

    def on_epoch_start(self, trainer: Trainer) -> None:
        """Change the trainer's interval if this epoch is the last one."""
        epochs, every = trainer.max_epochs, trainer.check_val_every_n_epoch
        if every is not None and epochs is not None and trainer.current_epoch + 1 == epochs and epochs % every:
            self._interval = every
            trainer.check_val_every_n_epoch = 1

    def on_end(self, trainer: Trainer) -> None:
        """Give the trainer its interval back."""
        if self._interval is not None:
            trainer.check_val_every_n_epoch = self._interval
            self._interval = None


class MemoryReuse(Callback):
    """Keeps freed memory for reuse while a model trains or is tested on a CPU (:mod:`anomalib_crad.freed_memory`)."""

    def setup(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002  # Lightning's
        """Keep it from here on."""
        if trainer.strategy.root_device.type == "cpu":
            keep_freed_memory()

    def teardown(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002  # Lightning's
        """Return it."""
        return_freed_memory()

    def on_exception(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002  # Lightning's
        """Return it also if the run fails."""
        return_freed_memory()


class RandomState:
    """State of the random numbers in a checkpoint, on which the order of images depends.

    A checkpoint that was written by a validation belongs to an epoch that has no batch left. Lightning ends this epoch
    when it resumes, and draws numbers on the way, so the state is restored a second time when that epoch ends.
    """

    def __init__(self) -> None:
        self._resumed: dict[str, Any] | None = None

    @staticmethod
    def current() -> dict[str, Any]:
        """Return the state of the moment as plain tensors: the first process's, and ``processes``, those of all."""
        states = gather_everywhere({"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()})
        return {**states[0], "processes": states} if len(states) > 1 else states[0]

    def resume(self, state: dict[str, Any]) -> None:
        """Continue with the numbers of a checkpoint.

        Args:
            state: What :meth:`current` returned. A process that it holds no state of keeps its own numbers.
        """
        self._resumed = state
        rank, states = distributed.get_rank() if several_processes() else 0, state.get("processes", [state])
        if rank >= len(states):
            return
        torch.set_rng_state(states[rank]["cpu"].cpu())
        if len(states[rank]["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([value.cpu() for value in states[rank]["cuda"]])

    def on_batch_start(self) -> None:
        """Note that training draws numbers of its own from here on."""
        self._resumed = None

    def on_epoch_end(self) -> None:
        """Restore the state again if the resumed epoch had no batch."""
        if self._resumed is not None:
            self.resume(self._resumed)
            self._resumed = None
