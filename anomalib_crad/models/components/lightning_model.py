# SPDX-License-Identifier: Apache-2.0

"""The Lightning base of our models: everything between anomalib's engine and a model's network.

Models that score images by the features of a frozen backbone differ in the head that is trained, its optimizer and the
map. The rest is the same and is here, in the order of a model's life, but for what takes more than a few lines.

anomalib lists direct subclasses of ``AnomalibModule`` only, so this is a mixin, and a model is
``class Model(FeatureReconstruction, AnomalibModule)``.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalib import LearningType
from anomalib.data import ImageBatch
from anomalib.metrics import Evaluator
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torch import nn
from torch.optim import Optimizer

from anomalib_crad.export.exportable import Exportable
from anomalib_crad.metrics import CategoryEvaluator
from anomalib_crad.models.components.checkpoint_writing import WholeCheckpoints
from anomalib_crad.models.components.checkpoints import (
    DeprecatedArgumentWarning,
    check_architecture,
    check_checkpoint_file,
    check_tensors,
    plain_data,
    rename_tensors,
)
from anomalib_crad.models.components.feature_cache import FeatureBatch, FeatureCache
from anomalib_crad.models.components.features import image_statistics
from anomalib_crad.models.components.image_size import IMAGE_SIZE, resize_and_normalise, resolve_image_size
from anomalib_crad.models.components.torch_model import ReconstructionModel, TrainingOutput
from anomalib_crad.models.components.training import (
    LastEpochValidation,
    MemoryReuse,
    RandomState,
    adamw,
    drop_schedule,
    epochs_to_train,
    seed_training,
    set_default_epochs,
)
from anomalib_crad.post_processing import CategoryPostProcessor

if TYPE_CHECKING:
    from typing_extensions import Self

#: Keys of a checkpoint.
INITIAL_HEAD = "initial_head"
RANDOM_STATE = "random_state"


class FeatureReconstruction(Exportable):  # noqa: PLR0904  # most are Lightning's hooks and anomalib's defaults
    """Mixin for an ``AnomalibModule`` that trains a head on frozen features.

    A model's constructor calls this one first, then sets ``self.model``. Its arguments ``backbone``, ``image_size``,
    ``max_epochs``, ``lr_step`` and ``seed`` are read from ``self.hparams`` here, ``feature_cache`` if it has that, and
    ``learning_rate`` and ``weight_decay`` unless it defines ``configure_optimizers``.

    Args:
        image_size: Height and width of the images that the network sees, or ``None``: the size that ``pre_processor``
            resizes to, or else ``default_image_size``. ``self.image_size`` is what was found.
        pre_processor: Pre-processor, or whether to use the default one.
        post_processor: Post-processor, or whether to use the default one.
        evaluator: Evaluator, or whether to use the default one.
        visualizer: Visualizer, or whether to use anomalib's.

    Attributes:
        model: The network.
        architecture_arguments: Constructor arguments that decide about a checkpoint's tensors: about their shapes, or
            about what they were trained for.
        renamed_tensors: What ends of tensors' names were in older releases (regular expressions), and what they are.
        default_image_size: Height and width of the images where neither an argument nor a pre-processor says.
        gradient_clip_norm: Largest norm of the gradient where the trainer's ``gradient_clip_val`` is not set; ``None``
            does not clip.
        trains_on_features: Whether a training step needs features of normal images only, which can be cached.
        lr_step_share: Share of the epochs after which :meth:`with_drop` drops the learning rates without ``lr_step``.
    """

    model: ReconstructionModel
    architecture_arguments: tuple[str, ...]
    renamed_tensors: Mapping[str, str] = {}
    default_image_size: tuple[int, int] = IMAGE_SIZE
    gradient_clip_norm: float | None = None
    lr_step_share: float = 0.8
    trains_on_features: bool = True

    def __init__(
        self,
        image_size: Sequence[int] | None,
        pre_processor: PreProcessor | bool,
        post_processor: PostProcessor | bool,
        evaluator: Evaluator | bool,
        visualizer: Visualizer | bool,
    ) -> None:
        super().__init__(
            pre_processor=pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        # anomalib has saved the arguments as they came; a checkpoint must hold plain data.
        size = resolve_image_size(image_size, pre_processor, self.default_image_size)
        arguments = {**self.hparams, "image_size": size}
        self.save_hyperparameters({name: plain_data(value) for name, value in arguments.items()})
        if pre_processor is True:
            self.pre_processor = resize_and_normalise(self.image_size, *image_statistics(self.hparams["backbone"]))
        self._last_epoch_validation = LastEpochValidation()
        self._random_state = RandomState()

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images that the network sees."""
        height, width = self.hparams["image_size"]
        return height, width

    @property
    def learning_type(self) -> LearningType:
        """Models learn from normal images only."""
        return LearningType.ONE_CLASS

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Arguments that anomalib forces on the trainer.

        What a user may want to set is not here: epochs and clipping are set later, where the user has set none.
        """
        return {"num_sanity_val_steps": 0}

    @classmethod
    def configure_pre_processor(cls, image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Resize and normalise with ImageNet's mean and standard deviation.

        The resize has no antialiasing: an exported graph cannot have it, and scores must not change on export.

        Args:
            image_size: Height and width. Defaults to ``None``: ``default_image_size``.

        Returns:
            The pre-processor.
        """
        return resize_and_normalise(image_size or cls.default_image_size)

    @staticmethod
    def configure_post_processor() -> PostProcessor:
        """One threshold for all categories, at the best F1; scores are squashed, which keeps their order."""
        return CategoryPostProcessor()

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """Metrics of each category and their mean, on raw scores."""
        return CategoryEvaluator()

    def configure_callbacks(self) -> Sequence[Callback]:
        """Components that are callbacks, and those that make a run fast and safe; the trainer's own cache stays."""
        callbacks = [*super().configure_callbacks(), MemoryReuse(), WholeCheckpoints()]  # type: ignore[misc]  # anomalib returns a list
        given = any(isinstance(callback, FeatureCache) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]
        wanted = self.trains_on_features and self.hparams.get("feature_cache", True) and not given
        return [*callbacks, FeatureCache()] if wanted else callbacks

    @property
    def trainer(self) -> Trainer:
        """The trainer that runs this model."""
        return super().trainer

    @trainer.setter
    def trainer(self, trainer: Trainer | None) -> None:
        # Lightning attaches the trainer just before it turns "no epochs set" into 1000. Only here can a user's choice
        # of 1000 be told from no choice.
        LightningModule.trainer.fset(self, trainer)  # type: ignore[attr-defined]  # a property with a setter
        if trainer is not None and trainer.state.fn == TrainerFn.FITTING:
            set_default_epochs(trainer, self.hparams["max_epochs"])

    def setup(self, stage: str) -> None:
        """Before a training: fix the seed, and fetch the backbone's weights unless a checkpoint brings its own."""
        super().setup(stage)
        if stage != TrainerFn.FITTING:
            return
        seed = self.hparams["seed"]
        if seed is not None:
            seed_training(seed, self.global_rank)
        if self.trainer.ckpt_path is None:
            self.fetch_weights()

    def fetch_weights(self) -> None:
        """Fetch the backbone's pretrained weights, if no weights have been loaded yet."""
        self.model.feature_extractor.load_weights()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW on the whole head; the learning rate drops to a tenth at ``lr_step``."""
        group = {"params": self.trained_module.parameters(), "lr": self.hparams["learning_rate"], "name": "networks"}
        return self.with_drop(adamw([group], self.hparams["weight_decay"], self.trainer))

    def with_drop(self, optimizer: Optimizer) -> OptimizerLRScheduler:
        """Let the learning rates of an optimizer drop to a tenth at ``lr_step``; for ``configure_optimizers``.

        Args:
            optimizer: The optimizer.

        Returns:
            Optimizer and scheduler, as Lightning takes them.
        """
        epochs = epochs_to_train(self.trainer, self.hparams["max_epochs"])
        schedule = drop_schedule(optimizer, epochs, self.hparams["lr_step"], self.lr_step_share)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_train_epoch_start(self) -> None:
        """Log the learning rate of each named parameter group; make sure that the last epoch is validated."""
        self._last_epoch_validation.on_epoch_start(self.trainer)
        groups = self.trainer.optimizers[0].param_groups
        self.log_dict({f"learning_rate/{group['name']}": group["lr"] for group in groups if "name" in group})

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002  # Lightning's
        """Note that the training has gone on since its checkpoint."""
        self._random_state.on_batch_start()

    def training_output(self, batch: ImageBatch | FeatureBatch) -> TrainingOutput:
        """Run the network on a batch of training images.

        Args:
            batch: Normal images, or their features.

        Returns:
            Features, reconstruction, and the loss by its terms.
        """
        if isinstance(batch, FeatureBatch):
            return self.model.training_output(batch.features)
        return self.model(batch.image)

    def training_step(self, batch: ImageBatch | FeatureBatch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:  # noqa: ANN401, ARG002  # Lightning's
        """Compute the loss of a batch of normal images.

        It is logged as ``train_loss``, and if it has several terms, each is logged as ``train_loss/NAME``, too.

        Returns:
            The loss.
        """
        output = self.training_output(batch)
        size = batch.batch_size
        self.log("train_loss", output.loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=size, sync_dist=True)
        if len(output.losses) > 1:
            terms = {f"train_loss/{name}": value for name, value in output.losses.items()}
            self.log_dict(terms, on_step=False, on_epoch=True, batch_size=size, sync_dist=True)
        return {"loss": output.loss}

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

    def validation_step(self, batch: ImageBatch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:  # noqa: ANN401, ARG002  # Lightning's
        """Score a batch of images; returns the batch with predictions."""
        return batch.update(**self.model(batch.image)._asdict())

    def on_train_epoch_end(self) -> None:
        """Restore random numbers again if the resumed epoch had no batch."""
        self._random_state.on_epoch_end()

    def on_train_end(self) -> None:
        """Give the trainer its validation interval back."""
        self._last_epoch_validation.on_end(self.trainer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the state of the random numbers, and what the head held before training.

        Args:
            checkpoint: What Lightning saves.
        """
        super().on_save_checkpoint(checkpoint)
        checkpoint[RANDOM_STATE] = RandomState.current()
        checkpoint[INITIAL_HEAD] = self.initial_fingerprint

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that a checkpoint fits this model, and restore what :meth:`on_save_checkpoint` stored.

        Args:
            checkpoint: What Lightning saved.

        Raises:
            ValueError: If it is of a model of another architecture, naming the arguments that differ, or of another
                model altogether.
        """
        name, saved = type(self).__name__, checkpoint.get("hyper_parameters", {})
        check_architecture(name, self.architecture_arguments, self.hparams, saved)
        rename_tensors(checkpoint.get("state_dict", {}), self.renamed_tensors)
        check_tensors(name, self.state_dict(), checkpoint)
        super().on_load_checkpoint(checkpoint)
        self.initial_fingerprint = checkpoint.get(INITIAL_HEAD)
        resumes = self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING
        if resumes and RANDOM_STATE in checkpoint:
            self._random_state.resume(checkpoint[RANDOM_STATE])

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
        """Build the model that a checkpoint is of, and load it; arguments as Lightning's.

        Raises:
            ValueError: If the file is not a checkpoint, or one of another model.
        """
        if weights_only:
            check_checkpoint_file(checkpoint_path, cls.checkpoint_safe_globals())  # type: ignore[attr-defined]
        with warnings.catch_warnings():  # an old checkpoint may hold arguments that were deprecated since
            warnings.simplefilter("ignore", DeprecatedArgumentWarning)
            return super().load_from_checkpoint(
                checkpoint_path,
                map_location=map_location,
                hparams_file=hparams_file,
                strict=strict,
                weights_only=weights_only,
                **kwargs,
            )

    @property
    def trained_module(self) -> nn.Module:
        """The module that training changes."""
        return self.model.reconstruction

    @property
    def initial_fingerprint(self) -> str | None:
        """Fingerprint of the head before training; ``None`` once the model is known to be trained."""
        return self.model.initial_fingerprint

    @initial_fingerprint.setter
    def initial_fingerprint(self, value: str | None) -> None:
        self.model.initial_fingerprint = value
