# SPDX-License-Identifier: Apache-2.0

"""Exports of our models: anomalib's own exporter, and what makes its files agree with the checkpoint and fit for use.

anomalib exports; around it, a model that cannot be exported is refused with a reason, files are written whole or not at
all, operations are named by their modules, scores can stay raw, the parts that 8 bits would spoil keep floating point,
and thresholds of single categories, which do not fit into a graph that is never told a category, travel as metadata.
"""

from pathlib import Path
from typing import Any

from anomalib import TaskType
from anomalib.data import AnomalibDataModule
from anomalib.deploy import CompressionType, ExportType
from lightning.pytorch import LightningModule
from torch import nn
from torchmetrics import Metric

from anomalib_crad.export.checks import check_is_trained, exportable_size
from anomalib_crad.export.compression import check_compression, compress_file
from anomalib_crad.export.node_names import name_nodes_by_module
from anomalib_crad.export.quiet import quiet_exporter, quiet_quantizer
from anomalib_crad.export.raw_scores import asks_for_raw_scores, scores_left_raw
from anomalib_crad.export.whole_files import write_whole
from anomalib_crad.optional_packages import require_packages
from anomalib_crad.post_processing import write_thresholds

#: What the exporter writes without a conversion, and what OpenVINO reads since 2023.
ONNX_OPSET = 18
_ONNX_PACKAGES = ("onnx", "onnxscript")


class Exportable(LightningModule):
    """Mixin for an ``AnomalibModule``.

    Attributes:
        model: What is exported, between pre- and post-processor: a frozen ``feature_extractor``, which is a
            ``MultiScaleFeatures``, and the ``reconstruction`` that is trained.
        post_processor: Where the thresholds are.
        floating_point_modules: Modules whose operations are not quantised, as patterns of paths from here
            (``export.quantization.kept_operations``).
        single_precision_modules: Modules whose weights keep 32 bits with ``FP16``, as such patterns.
    """

    model: nn.Module
    pre_processor: nn.Module | None
    post_processor: nn.Module | None
    # A score is the length of a small difference between features and what is rebuilt of them, so that every error of
    # either adds to it (docs/benchmarks/int8.md).
    floating_point_modules: tuple[str, ...] = (
        "pre_processor*",
        "model.feature_extractor*",
        "model.reconstruction",
        "model.anomaly_map_generator*",
        "post_processor*",
    )
    single_precision_modules: tuple[str, ...] = floating_point_modules

    initial_fingerprint: str | None = None

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
            raw_scores: Leave scores and maps as the network gives them. Defaults to ``False``: squashed into (0, 1).

        Returns:
            Path of the ``.pt`` file.

        Raises:
            OSError: If the folder cannot be written to.
            TypeError: If ``raw_scores`` is neither true nor false.
            ValueError: If the model has not been trained.
        """
        raw_scores = asks_for_raw_scores(raw_scores)
        self._check_before_export()

        def write(root: Path) -> Path:
            with scores_left_raw(self.post_processor, raw_scores):
                return super(Exportable, self).to_torch(root, model_file_name)  # type: ignore[misc]  # of the AnomalibModule

        return write_whole(export_root, ExportType.TORCH, write)

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
            raw_scores: Leave scores and maps as the network gives them. Defaults to ``False``: squashed into (0, 1).
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
        raw_scores = asks_for_raw_scores(raw_scores)
        self._check_before_export()
        size = self._exportable_size(input_size)
        options = {"opset_version": ONNX_OPSET, "verbose": False, "external_data": False, **kwargs}

        def write(root: Path) -> Path:
            with quiet_exporter(), scores_left_raw(self.post_processor, raw_scores):
                path: Path = super(Exportable, self).to_onnx(root, model_file_name, size, **options)  # type: ignore[call-arg, assignment]
                name_nodes_by_module(path)
                write_thresholds(path, self.post_processor)
            return path

        return write_whole(export_root, ExportType.ONNX, write)

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

        Fewer bits are taken where they do no harm (``floating_point_modules``, ``single_precision_modules``), and
        images to quantise with are read from any datamodule, whatever their sizes; see docs/export.md.

        Args:
            export_root: Folder for the exported files.
            model_file_name: Name of the files without their endings. Defaults to ``"model"``.
            input_size: Height and width of the input. Defaults to ``None``: any size, resized in the graph.
            compression_type: ``FP16`` and ``INT8`` store weights in fewer bits; ``INT8_PTQ`` and ``INT8_ACQ`` quantise
                arithmetic too. Defaults to ``None``: not at all.
            datamodule: Images for ``INT8_PTQ`` and ``INT8_ACQ``: ranges of values come from the training images.
                Defaults to ``None``.
            metric: Measure of ``INT8_ACQ`` on the validation images, higher is better. Defaults to ``None``: anomalib's
                F1 score of images.
            task: Not used. Defaults to ``None``.
            max_drop: Largest drop of ``metric`` in ``INT8_ACQ``, itself and not relative to it. Defaults to ``0.01``.
            ov_kwargs: Passed on to OpenVINO's converter. Defaults to ``None``.
            onnx_kwargs: Passed on to ``torch.onnx.export``; also takes ``raw_scores``, for anomalib's command line.
                Defaults to ``None``.
            raw_scores: Leave scores and maps as the network gives them. Defaults to ``False``: squashed into (0, 1).

        Returns:
            Path of the ``.xml`` file.

        Raises:
            ModuleNotFoundError: If a package is missing, naming the extra that brings it.
            OSError: If the folder cannot be written to.
            TypeError: If ``raw_scores`` is neither true nor false.
            ValueError: If the model has not been trained, cannot take ``input_size``, or lacks images to quantise with;
                or options contradict each other.
        """
        require_packages("Export to OpenVINO", "openvino", *_ONNX_PACKAGES)
        raw_scores = asks_for_raw_scores(raw_scores, onnx_kwargs)
        self._check_before_export()
        left_raw = raw_scores or not getattr(self.post_processor, "enable_normalization", False)
        check_compression(compression_type, datamodule, metric, max_drop, left_raw)
        compression = None if compression_type is None else CompressionType(compression_type)
        half = compression == CompressionType.FP16
        kept = self.single_precision_modules if half else self.floating_point_modules

        def write(root: Path) -> Path:
            path: Path = super(Exportable, self).to_openvino(  # type: ignore[misc]  # of the AnomalibModule
                export_root=root,
                model_file_name=model_file_name,
                input_size=input_size,
                task=task,
                ov_kwargs=ov_kwargs,
                onnx_kwargs={**(onnx_kwargs or {}), "raw_scores": raw_scores},
            )
            if compression is not None:
                with quiet_quantizer():
                    compress_file(path, compression, datamodule, metric, max_drop, kept)
            with scores_left_raw(self.post_processor, raw_scores):
                write_thresholds(path, self.post_processor)
            return path

        return write_whole(export_root, ExportType.OPENVINO, write)

    def _check_before_export(self) -> None:
        check_is_trained(type(self).__name__, self.trained_module, self.initial_fingerprint)
        self.initial_fingerprint = None  # what is trained stays trained, and a pickle need not say how it began
        self.fetch_weights()

    def _exportable_size(self, input_size: tuple[int, int] | None) -> tuple[int, int] | None:
        transform = getattr(self.pre_processor, "transform", None)
        resizes = transform is not None and self.input_size is not None
        return exportable_size(input_size, self.hparams["image_size"], resizes=resizes)
