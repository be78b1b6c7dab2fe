# SPDX-License-Identifier: Apache-2.0

"""How our models train under anomalib's engine: defaults that give way to the trainer's flags, and runs that repeat.

anomalib forces a model's ``trainer_arguments`` over the user's flags, and Lightning trains 1000 epochs where nobody
sets a number. This mixin fills in a method's epochs and gradient clipping only where the user was silent, fixes a
seed (anomalib's ``--seed_everything`` has no effect), and lets a checkpoint resume as if training had not stopped.
"""

import logging
from typing import Any

import torch
from lightning.fabric.utilities.seed import seed_everything
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.trainer.states import TrainerFn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

logger = logging.getLogger(__name__)

LR_DROP = 0.1
MAX_SEED = 2**32 - 1


class TrainingDefaults(LightningModule):
    """Mixin for an ``AnomalibModule``; set the attributes after its constructor.

    Attributes:
        max_epochs: Epochs to train where neither epochs, steps nor time are set on the trainer.
        lr_step: Epoch from which learning rates are a tenth; ``None`` for ``lr_step_share`` of the epochs to train.
        lr_step_share: See ``lr_step``.
        gradient_clip_norm: Largest norm of the gradient where ``gradient_clip_val`` is not set on the trainer.
        seed: Seed of all random numbers of the training; ``None`` to leave them alone.
    """

    max_epochs: int
    lr_step: int | None
    lr_step_share: float
    gradient_clip_norm: float
    seed: int | None

    _base_rates: list[float]
    _resumed_random_state: dict[str, Any] | None = None
    _validation_interval: int | None = None

    @property
    def trainer(self) -> Trainer:
        """The trainer that runs this model."""
        return super().trainer

    @trainer.setter
    def trainer(self, trainer: Trainer | None) -> None:
        # Lightning attaches the trainer just before it turns "no epochs set" into 1000; only here can the user's
        # silence still be told from the user's choice.
        LightningModule.trainer.fset(self, trainer)  # type: ignore[attr-defined]  # a property with a setter
        if trainer is None or trainer.state.fn != TrainerFn.FITTING:
            return
        timed = any(isinstance(callback, Timer) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        if trainer.max_epochs is None and trainer.max_steps == -1 and not timed:
            trainer.fit_loop.max_epochs = self.max_epochs

    def setup(self, stage: str) -> None:
        """Fix the seed, if there is one, before the first image of a training is drawn."""
        super().setup(stage)
        if stage == TrainerFn.FITTING and self.seed is not None:
            seed_everything(self.seed, workers=True)
            if self.global_rank > 0:  # the order of images comes from the common seed, noise must differ
                torch.manual_seed(self.seed + self.global_rank)

    def on_train_start(self) -> None:
        """Take learning rates from this run's arguments; a checkpoint brings those of the run that wrote it."""
        for config in self.trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            if isinstance(scheduler, LambdaLR) and len(scheduler.base_lrs) == len(self._base_rates):
                scheduler.base_lrs = list(self._base_rates)
                rates = zip(scheduler.optimizer.param_groups, self._base_rates, scheduler.lr_lambdas, strict=True)
                for group, rate, factor in rates:
                    group["lr"] = rate * factor(scheduler.last_epoch)

    def on_train_epoch_start(self) -> None:
        """Log the learning rate of each named parameter group, and see to it that the last epoch is validated.

        Thresholds and the checkpoint come from the last validation: what is trained after it would be lost.
        """
        epochs, every = self.trainer.max_epochs, self.trainer.check_val_every_n_epoch
        if every is not None and epochs is not None and self.current_epoch + 1 == epochs and epochs % every:
            self._validation_interval = every
            self.trainer.check_val_every_n_epoch = 1
        groups = self.trainer.optimizers[0].param_groups
        self.log_dict({f"learning_rate/{group['name']}": group["lr"] for group in groups if "name" in group})

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ANN401  # Lightning's signature
        """Note that training goes on; see :meth:`on_train_epoch_end`."""
        del batch, batch_idx
        self._resumed_random_state = None

    def on_train_epoch_end(self) -> None:
        """Restore random numbers once more where Lightning ends, without a batch, the epoch of the checkpoint.

        It does so where the checkpoint was written by a validation, and draws numbers on the way.
        """
        if self._resumed_random_state is not None:
            _restore_random_state(self._resumed_random_state)
            self._resumed_random_state = None

    def on_train_end(self) -> None:
        """Give the trainer its validation interval back."""
        if self._validation_interval is not None:
            self.trainer.check_val_every_n_epoch = self._validation_interval
            self._validation_interval = None

    def step_schedule(self, optimizer: Optimizer) -> LambdaLR:
        """Learning rates that drop to a tenth at ``lr_step``.

        Unlike torch's step schedulers, this one keeps no milestones in the checkpoint, so a run that is resumed with
        another number of epochs drops where a run of that length drops.

        Args:
            optimizer: The optimizer to schedule, by epoch.

        Returns:
            The scheduler.
        """
        epochs = self.trainer.max_epochs
        if epochs is None or epochs < 1:  # limited by steps or time
            epochs = self.max_epochs
        step = self.lr_step if self.lr_step is not None else max(round(self.lr_step_share * epochs), 1)
        if self.lr_step is not None and step >= epochs:
            logger.warning("lr_step=%d is not before the end (%d epochs): learning rates never drop.", step, epochs)
        self._base_rates = [group["lr"] for group in optimizer.param_groups]
        return LambdaLR(optimizer, lambda epoch: LR_DROP if epoch >= step else 1.0)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient's norm as the method does, where the trainer's flags do not say otherwise."""
        if gradient_clip_val is None:
            gradient_clip_val = self.gradient_clip_norm
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the state of the random numbers, on which the order of images depends."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["random_state"] = {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore random numbers where a training resumes, and only there."""
        super().on_load_checkpoint(checkpoint)
        state = checkpoint.get("random_state")
        resumes = self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING
        if state is None or not resumes:
            return
        _restore_random_state(state)
        self._resumed_random_state = state


def _restore_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([value.cpu() for value in state["cuda"]])


def check_training_arguments(
    learning_rates: dict[str, float],
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
        if not value > 0:  # not a number is no learning rate either
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
