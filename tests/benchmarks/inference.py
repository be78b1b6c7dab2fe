# SPDX-License-Identifier: Apache-2.0

"""How fast Crad is in PyTorch, ONNX Runtime and OpenVINO: backbone, head and whole model, beside the processor's peak.

Weights are random with the scale of trained ones (``random_crad``); time does not depend on their values. Run it on a
quiet machine with ``python tests/benchmarks/inference.py --output inference.csv``; ``--profile`` shows where OpenVINO
spends the time of the whole model.
"""

from __future__ import annotations

import argparse
import csv
import logging
import os
import statistics
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nncf
import numpy as np
import onnxruntime
import openvino
import torch
from openvino import opset13
from random_crad import preprocessed, random_crad, random_images, with_plain_reads
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from anomalib_crad.export.cleanup import module_of, name_nodes_by_module
from anomalib_crad.export.quantization import quantize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import nn

    from anomalib_crad import Crad

BACKBONES = {"EfficientNet-B4": "tf_efficientnet_b4", "EfficientNet-Lite0": "tf_efficientnet_lite0"}
WIDTHS = {"CRAD": 864, "CRAD-S": 216}
PLAIN = "PyTorch eager, grid_sample"
EAGER = "PyTorch eager"
RUNTIMES = (PLAIN, EAGER, "torch.compile", "ONNX Runtime", "OpenVINO FP32", "OpenVINO INT8")
COLUMNS = (
    "model",
    "backbone",
    "part",
    "batch",
    "runtime",
    "threads",
    "milliseconds",
    "to_plain_eager",
    "share_of_peak",
)
CALIBRATION_IMAGES = 32
WARM_UP = 3


@dataclass(frozen=True)
class Part:
    """A part of a model that is measured on its own.

    Attributes:
        name: Name of the part.
        module: The part.
        inputs: Makes a batch of inputs of a given size.
        prefix: Path of the module in the whole model.
    """

    name: str
    module: nn.Module
    inputs: Callable[[int], torch.Tensor]
    prefix: str


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print.

    Args:
        arguments: Command-line arguments. Defaults to ``None``: those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=WIDTHS, default=list(WIDTHS))
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument(
        "--parts", nargs="+", choices=("backbone", "head", "whole"), default=["backbone", "head", "whole"]
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--image-size", nargs=2, type=int, default=[224, 224], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=10, help="least number of runs of which the median is taken")
    parser.add_argument("--seconds", type=float, default=5.0, help="least time over which runs are repeated")
    parser.add_argument("--output", type=Path, help="CSV file of all figures")
    parser.add_argument("--profile", action="store_true", help="print where OpenVINO spends the whole model's time")
    options = parser.parse_args(arguments)

    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    nncf.set_log_level(logging.ERROR)
    torch.set_num_threads(options.threads)
    console = Console()
    peak = matrix_product_peak(options.threads)
    console.print(f"{options.threads} threads; matrix product of 2048 x 2048 floats: {peak / 1e9:.0f} GFLOP/s")
    rows: list[dict[str, Any]] = []
    for row in measure_all(options, peak):
        rows.append(row)
        console.print(
            f"{row['model']:7}{row['backbone']:20}{row['part']:9}batch {row['batch']:<4}{row['runtime']:28}"
            f"{row['milliseconds']:9.2f} ms  {row['to_plain_eager']:>6} x plain eager  "
            f"{row['share_of_peak']:>5} of peak",
            soft_wrap=True,
        )
    console.print(f"matrix product again: {matrix_product_peak(options.threads) / 1e9:.0f} GFLOP/s")
    if options.output:
        with options.output.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


def matrix_product_peak(threads: int, side: int = 2048, repeats: int = 15) -> float:
    """Measure how fast this machine multiplies matrices: in PyTorch or in OpenVINO, whichever is faster.

    Args:
        threads: Threads to use.
        side: Rows and columns. Defaults to ``2048``.
        repeats: Runs, of which the fastest counts. Defaults to ``15``.

    Returns:
        Operations per second.
    """
    left, right = torch.rand(side, side), torch.rand(side, side)
    image = opset13.parameter([side, side], np.float32)
    product = opset13.matmul(image, right.numpy(), transpose_a=False, transpose_b=False)
    compiled = openvino.Core().compile_model(openvino.Model([product], [image]), "CPU", _settings(threads))
    request, array = compiled.create_infer_request(), left.numpy()
    runs: list[Callable[[], object]] = [
        lambda: left @ right,
        lambda: request.infer([array], share_inputs=True, share_outputs=True),
    ]
    return max(2 * side**3 / min(_times(run, repeats, 0)) for run in runs)


def measure_all(options: argparse.Namespace, peak: float) -> Iterator[dict[str, Any]]:
    """Measure every combination of the options.

    Args:
        options: Command-line options.
        peak: Operations per second of a matrix product.

    Yields:
        A row of the table.
    """
    size = (options.image_size[0], options.image_size[1])
    for backbone in options.backbones:
        for name in options.models:
            # The backbone is the same for every head.
            model = random_crad(BACKBONES[backbone], WIDTHS[name], size)
            plain = with_plain_reads(random_crad(BACKBONES[backbone], WIDTHS[name], size))
            for part, plain_part in zip(parts(model, size), parts(plain, size), strict=True):
                if part.name not in options.parts or (part.name == "backbone" and name != options.models[0]):
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    runners = Runners(part, plain_part, model, Path(folder), options.threads)
                    for row in _measure_part(part, runners, options, peak):
                        yield {"model": "-" if part.name == "backbone" else name, "backbone": backbone, **row}
                    if options.profile and part.name == "whole":
                        print_profile(runners.openvino_model(), part.inputs(1).numpy(), options.threads)


def parts(model: Crad, size: tuple[int, int]) -> list[Part]:
    """List the parts of a model.

    Args:
        model: The model.
        size: Height and width of its images.

    Returns:
        Backbone, head, and the whole model with pre- and post-processing.
    """
    extractor, head = model.model.feature_extractor, model.model.reconstruction

    def normalised(count: int) -> torch.Tensor:
        return preprocessed(model, random_images(count, size, seed=1))

    def features(count: int) -> torch.Tensor:
        with torch.inference_mode():
            return extractor(normalised(count)).clone()

    return [
        Part("backbone", extractor, normalised, "model.feature_extractor"),
        Part("head", head, features, "model.reconstruction"),
        Part("whole", model, lambda count: random_images(count, size, seed=1), ""),
    ]


class Runners:
    """One part of a model in every runtime.

    Args:
        part: The part.
        plain: The same part, transcribed plainly.
        model: The model that it is a part of.
        folder: Where exported files go.
        threads: Threads to use.
    """

    def __init__(self, part: Part, plain: Part, model: Crad, folder: Path, threads: int) -> None:
        self.part = part
        self.plain = plain
        self.model = model
        self.folder = folder
        self.threads = threads
        self.path: Path | None = None

    def runner(self, runtime: str, batch: torch.Tensor) -> Callable[[], object]:
        """Prepare a runtime.

        Args:
            runtime: One of :data:`RUNTIMES`.
            batch: The input.

        Returns:
            The function to time.
        """
        if runtime in {PLAIN, EAGER, "torch.compile"}:
            module = (self.plain if runtime == PLAIN else self.part).module
            return _torch_runner(_compiled(module) if runtime == "torch.compile" else module, batch)
        array = batch.numpy()
        if runtime == "ONNX Runtime":
            settings = onnxruntime.SessionOptions()
            settings.intra_op_num_threads = self.threads
            session = onnxruntime.InferenceSession(self.onnx_path(), settings, providers=["CPUExecutionProvider"])
            return lambda: session.run(None, {session.get_inputs()[0].name: array})
        model = self.openvino_model()
        if runtime == "OpenVINO INT8":
            images = self.part.inputs(CALIBRATION_IMAGES).numpy()
            model = quantize(model, [image[None] for image in images], self.kept_modules())
        compiled = openvino.Core().compile_model(model, "CPU", _settings(self.threads))
        request = compiled.create_infer_request()
        return lambda: request.infer([array], share_inputs=True, share_outputs=True)

    def onnx_path(self) -> Path:
        """Export the part to ONNX, once."""
        if self.path is None and self.part.name == "whole":
            self.path = self.model.to_onnx(self.folder)
        elif self.path is None:
            self.path = self.folder / "part.onnx"
            shapes = ({0: torch.export.Dim("batch")},)
            torch.onnx.export(
                self.part.module,
                (self.part.inputs(2),),
                self.path,
                opset_version=18,
                dynamo=True,
                dynamic_shapes=shapes,
                verbose=False,
                external_data=False,
            )
            name_nodes_by_module(self.path)
        return self.path

    def openvino_model(self) -> openvino.Model:
        """Convert the part to OpenVINO."""
        return openvino.convert_model(self.onnx_path())

    def kept_modules(self) -> list[str]:
        """List the modules that stay in floating point, by their names in the part."""
        kept = self.model.floating_point_modules
        if not self.part.prefix:
            return list(kept)
        return [
            name.removeprefix(self.part.prefix).removeprefix(".") for name in kept if name.startswith(self.part.prefix)
        ]


def _compiled(module: nn.Module) -> Any:  # noqa: ANN401  # the result of torch.compile
    """Compile for one shape, as the other runtimes do, after discarding earlier compilations.

    After several models of the same code torch would give up and run the plain module, which would be timed instead.
    """
    torch.compiler.reset()
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    return torch.compile(module, dynamic=False)


def _torch_runner(module: Any, batch: torch.Tensor) -> Callable[[], object]:  # noqa: ANN401  # a module, compiled or not
    def run() -> object:
        with torch.inference_mode():
            return module(batch)

    return run


def _settings(threads: int, **further: str) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": "f32",  # by default OpenVINO uses bfloat16 on processors that have it
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        **further,
    }


def _measure_part(part: Part, runners: Runners, options: argparse.Namespace, peak: float) -> Iterator[dict[str, Any]]:
    for count in options.batches:
        batch = part.inputs(count)
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            part.module(batch)
        plain = None
        for runtime in options.runtimes:
            if runtime == "OpenVINO INT8" and part.name == "backbone":
                continue  # it keeps floating point
            run = runners.runner(runtime, batch)
            for _ in range(WARM_UP):
                run()
            seconds = statistics.median(_times(run, options.repeats, options.seconds))
            plain = seconds if runtime == PLAIN else plain
            yield {
                "part": part.name,
                "batch": count,
                "runtime": runtime,
                "threads": options.threads,
                "milliseconds": round(1000 * seconds, 3),
                "to_plain_eager": f"{seconds / plain:.2f}" if plain else "",
                "share_of_peak": f"{counter.get_total_flops() / seconds / peak:.2f}",
            }


def _times(run: Callable[[], object], repeats: int, least_seconds: float) -> list[float]:
    """Return the seconds of single runs."""
    times: list[float] = []
    while len(times) < repeats or sum(times) < least_seconds:
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return times


def print_profile(model: openvino.Model, image: np.ndarray, threads: int, runs: int = 20) -> None:
    """Print OpenVINO's time by module and by kind of operation.

    Args:
        model: The whole model.
        image: Its input.
        threads: Threads to use.
        runs: Runs to add up. Defaults to ``20``.
    """
    compiled = openvino.Core().compile_model(model, "CPU", _settings(threads, PERF_COUNT="YES"))
    request = compiled.create_infer_request()
    spent: dict[tuple[str, str], float] = {}
    for run in range(WARM_UP + runs):
        request.infer([image])
        for info in request.profiling_info if run >= WARM_UP else ():
            module = ".".join(module_of(info.node_name).split(".")[:3]) or "(none)"
            key = (module, f"{info.node_type} {info.exec_type}")
            spent[key] = spent.get(key, 0) + info.real_time.total_seconds() * 1000 / runs
    console = Console()
    for (module, kind), milliseconds in sorted(spent.items(), key=lambda item: -item[1])[:25]:
        console.print(f"  {milliseconds:8.3f} ms  {module:45}{kind}", soft_wrap=True)
    console.print(f"  {sum(spent.values()):8.3f} ms  in all", soft_wrap=True)


if __name__ == "__main__":
    main()
