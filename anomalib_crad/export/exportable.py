# SPDX-License-Identifier: Apache-2.0

"""Exports of our models: anomalib's exporters, and what makes their files agree with the checkpoint and fit for use.

``Exportable`` refuses to export an untrained model, writes files whole or not at all, names operations by their
modules, leaves scores raw on request, and keeps floating point where 8 bits would spoil the result. A graph is never
told the category of an image, so the thresholds of single categories are stored in the file's metadata.
"""

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from anomalib import TaskType
from anomalib.data import AnomalibDataModule
from anomalib.deploy import CompressionType, ExportType
from lightning.pytorch import LightningModule
from torch import nn
from torchmetrics import Metric

from anomalib_crad.export.checks import check_is_trained, exportable_size, scores_left_raw, take_raw_scores
from anomalib_crad.export.cleanup import name_nodes_by_module, quiet_exporter, quiet_quantizer
from anomalib_crad.export.compression import check_compression, compress
from anomalib_crad.export.thresholds import add_thresholds, write_thresholds
from anomalib_crad.files import staged_files
from anomalib_crad.freed_memory import freed_memory_kept
from anomalib_crad.optional_packages import require_packages

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What the exporter writes without a conversion, and what OpenVINO reads since 2023.
ONNX_OPSET = 18
_ONNX_PACKAGES = ("onnx", "onnxscript")
_ONNX_OPTIONS = {"opset_version": ONNX_OPSET, "verbose": False, "external_data": False}
#: Ending of the file that a user opens.
_MAIN_SUFFIX = {ExportType.TORCH: ".pt", ExportType.ONNX: ".onnx", ExportType.OPENVINO: ".xml"}
STAGING_PREFIX = ".unfinished-export-"


def staged_export(export_root: Path | str, export_type: ExportType) -> AbstractContextManager[Path]:
    """Give an exporter a root to write to, and move its files to their place when the export ends well.

    Args:
        export_root: Folder that the user asked for.
        export_type: Format; anomalib's exporters write into ``weights/<format>`` of their root.

    Returns:
        A context manager that yields the root for the exporter.

    Raises:
        OSError: If the folder cannot be made or written to; raised when the context is entered.
    """

    def explain(error: OSError) -> str:
        return (
            f"export_root='{export_root}' cannot be written to ({error.strerror}: {error.filename}). Choose a folder "
            "of yours (command line: --export_root FOLDER)."
        )

    folder = Path(export_root) / "weights" / export_type.value
    return staged_files(folder, _MAIN_SUFFIX[export_type], STAGING_PREFIX, explain)


class Exportable(LightningModule):
    """Mixin for an ``AnomalibModule`` that adds to anomalib's exports what this module's docstring lists.

    It expects of its class the attributes below, ``hparams["image_size"]`` and anomalib's ``input_size``.

    Attributes:
        model: What is exported, between pre- and post-processor.
        pre_processor: anomalib's component.
        post_processor: anomalib's component, which holds the thresholds.
        initial_fingerprint: ``checks.fingerprint`` of :attr:`trained_module` when the model was built. ``None``: the
            model is known to be trained, or nobody knows; it may be exported.
        floating_point_modules: Modules whose operations are not quantised, as patterns of paths from here
            (``export.quantization.kept_operations``).
        single_precision_modules: Modules whose weights keep 32 bits with ``FP16``, as such patterns.
    """

    model: nn.Module
    pre_processor: nn.Module | None
    post_processor: nn.Module | None
    initial_fingerprint: str | None = None
    # A score is the length of a small difference between features and their reconstruction, so every error of either
    # adds to it (docs/benchmarks/int8.md).
    floating_point_modules: tuple[str, ...] = (
        "pre_processor*",
        "model.feature_extractor*",
        "model.reconstruction",
        "model.anomaly_map_generator*",
        "post_processor*",
    )
    single_precision_modules: tuple[str, ...] = floating_point_modules

    @property
    def trained_module(self) -> nn.Module:
        """The module that training changes."""
        raise NotImplementedError

    def fetch_weights(self) -> None:
        """Fetch pretrained weights that the model has not loaded yet."""
        raise NotImplementedError

    def to_torch(self, export_root: Path | str, model_file_name: str = "model", raw_scores: bool = False) -> Path:
        """Export to PyTorch as anomalib does: a pickle, which needs this package where it is loaded.

        Args:
            export_root: Folder for the exported file.
            model_file_name: Name of the file without its ending. Defaults to ``"model"``.
            raw_scores: Leave scores and maps as the network computes them. Defaults to ``False``: squashed into (0, 1).

        Returns:
            Path of the ``.pt`` file.

        Raises:
            OSError: If the folder cannot be written to.
            TypeError: If ``raw_scores`` is neither true nor false.
            ValueError: If the model has not been trained.
        """
        raw_scores, _ = take_raw_scores(raw_scores)
        self._check_before_export()
        with self._exporting(raw_scores), staged_export(export_root, ExportType.TORCH) as root:
            path = super().to_torch(root, model_file_name)  # type: ignore[misc]  # of the AnomalibModule
        return Path(export_root) / path.relative_to(root)

    def to_onnx(  # type: ignore[override]  # anomalib's signature, not Lightning's
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        raw_scores: bool = False,
        **kwargs: Any,  # noqa: ANN401
    ) -> Path:
        """Export to ONNX as anomalib does, into one file, with thresholds in the model's metadata.

        Args:
            export_root: Folder for the exported file.
            model_file_name: Name of the file without its ending. Defaults to ``"model"``.
            input_size: Height and width of the input. Defaults to ``None``: any size, resized in the graph.
            raw_scores: Leave scores and maps as the network computes them. Defaults to ``False``: squashed into (0, 1).
            **kwargs: Passed on to ``torch.onnx.export``.

        Returns:
            Path of the ONNX file.

        Raises:
            ModuleNotFoundError: If a package is missing, naming the extra that brings it.
            OSError: If the folder cannot be written to.
            TypeError: If ``raw_scores`` is neither true nor false.
            ValueError: If the model has not been trained, or cannot take ``input_size``.
        """
        require_packages("Export to ONNX", *_ONNX_PACKAGES)
        raw_scores, _ = take_raw_scores(raw_scores)
        self._check_before_export()
        size = self._exportable_size(input_size)
        with self._exporting(raw_scores), staged_export(export_root, ExportType.ONNX) as root:
            path = self._write_onnx(root, model_file_name, size, kwargs)
            write_thresholds(path, self.post_processor)
        return Path(export_root) / path.relative_to(root)

    def to_openvino(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        compression_type: CompressionType | None = None,
        datamodule: AnomalibDataModule | None = None,
        metric: Metric | None = None,
        task: TaskType | None = None,
        max_drop: float = 0.01,
        ov_kwargs: dict[str, Any] | None = None,
        onnx_kwargs: dict[str, Any] | None = None,
        raw_scores: bool = False,
    ) -> Path:
        """Export to OpenVINO as anomalib does, with each category's threshold in the model's metadata.

        Fewer bits are used only where they do no harm (``floating_point_modules``, ``single_precision_modules``), and
        the images to quantise with come from any datamodule, whatever their sizes; see docs/export.md.

        Args:
            export_root: Folder for the exported files.
            model_file_name: Name of the files without their endings. Defaults to ``"model"``.
            input_size: Height and width of the input. Defaults to ``None``: any size, resized in the graph.
            compression_type: ``FP16`` and ``INT8`` store weights in fewer bits; ``INT8_PTQ`` and ``INT8_ACQ`` quantise
                arithmetic too. Defaults to ``None``: no compression.
            datamodule: Images for ``INT8_PTQ`` and ``INT8_ACQ``: ranges of values come from the training images.
                Defaults to ``None``.
            metric: Measure of ``INT8_ACQ`` on the validation images, higher is better. Defaults to ``None``: anomalib's
                F1 score of images.
            task: Ignored; anomalib's exporter has this argument. Defaults to ``None``.
            max_drop: Largest drop of ``metric`` in ``INT8_ACQ``, absolute and not relative. Defaults to ``0.01``.
            ov_kwargs: Passed on to OpenVINO's converter. Defaults to ``None``.
            onnx_kwargs: Passed on to ``torch.onnx.export``, except for ``raw_scores``, which anomalib's command line
                can pass in no other way. Defaults to ``None``.
            raw_scores: Leave scores and maps as the network computes them. Defaults to ``False``: squashed into (0, 1).

        Returns:
            Path of the ``.xml`` file.

        Raises:
            ModuleNotFoundError: If a package is missing, naming the extra that brings it.
            OSError: If the folder cannot be written to.
            TypeError: If ``raw_scores`` is neither true nor false.
            ValueError: If the model has not been trained, cannot take ``input_size``, or lacks images to quantise with;
                or options contradict each other.
        """
        del task
        require_packages("Export to OpenVINO", "openvino", *_ONNX_PACKAGES)
        import openvino

        raw_scores, onnx_options = take_raw_scores(raw_scores, onnx_kwargs)
        self._check_before_export()
        size = self._exportable_size(input_size)
        left_raw = raw_scores or not getattr(self.post_processor, "enable_normalization", False)
        check_compression(compression_type, datamodule, metric, max_drop, left_raw)
        name = f"{model_file_name}{_MAIN_SUFFIX[ExportType.OPENVINO]}"
        with (
            self._exporting(raw_scores),
            staged_export(export_root, ExportType.OPENVINO) as root,
            TemporaryDirectory() as onnx_root,
        ):
            graph = openvino.convert_model(
                self._write_onnx(Path(onnx_root), model_file_name, size, onnx_options), **(ov_kwargs or {})
            )
            if compression_type is not None:
                kept = self._kept_modules(CompressionType(compression_type))
                with quiet_quantizer():
                    graph = compress(graph, CompressionType(compression_type), datamodule, metric, max_drop, kept)
            add_thresholds(graph, self.post_processor)
            openvino.save_model(graph, root / name, compress_to_fp16=False)
        return Path(export_root) / "weights" / ExportType.OPENVINO.value / name

    def _write_onnx(
        self, root: Path, model_file_name: str, size: tuple[int, int] | None, options: "Mapping[str, Any]"
    ) -> Path:
        """Let anomalib export to ONNX below a root, and clean up after it."""
        with quiet_exporter():
            # Of the AnomalibModule; Lightning's has another signature.
            path: Path = super().to_onnx(root, model_file_name, size, **{**_ONNX_OPTIONS, **options})  # type: ignore[call-arg, assignment]
        name_nodes_by_module(path)
        return path

    @contextmanager
    def _exporting(self, raw_scores: bool) -> Generator[None, None, None]:
        """Leave scores raw, if asked to, and keep freed memory for reuse, during an export."""
        with freed_memory_kept(), scores_left_raw(self.post_processor, raw_scores):
            yield

    def _check_before_export(self) -> None:
        check_is_trained(type(self).__name__, self.trained_module, self.initial_fingerprint)
        self.initial_fingerprint = None  # a trained model stays trained, and a pickle does not need the value
        self.fetch_weights()

    def _exportable_size(self, input_size: tuple[int, int] | None) -> tuple[int, int] | None:
        transform = getattr(self.pre_processor, "transform", None)
        resizes = transform is not None and self.input_size is not None
        return exportable_size(input_size, self.hparams["image_size"], resizes=resizes)

    def _kept_modules(self, compression_type: CompressionType) -> tuple[str, ...]:
        if compression_type == CompressionType.FP16:
            return self.single_precision_modules
        return self.floating_point_modules
