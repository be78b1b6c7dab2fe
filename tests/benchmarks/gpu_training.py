# SPDX-License-Identifier: Apache-2.0

"""Training on a GPU: recordings, steps a second beside the plain transcription, cache, memory, ``torch.compile``.

Run it on a machine with a CUDA card, beside the recorded numbers if there are any::

    python tests/benchmarks/gpu_training.py --golden ../shared/golden

What is compared takes turns on the same card in one run. Without a card it says so and measures nothing;
``--device cpu --quick`` tries the script itself.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional
from training_jobs import build_heads, made_up_features, optimizer_of, training_step

from anomalib_crad import Crad, UniAD
from anomalib_crad.models.crad.official import convert_state_dict
from anomalib_crad.models.crad.torch_model import ContinuousMemoryReconstruction
from anomalib_crad.models.uniad.official import convert_state_dict as convert_uniad
from anomalib_crad.models.uniad.torch_model import UniADReconstruction

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))
from recorded import TOLERANCE, official_state_dict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

WIDTHS = {"CRAD": 864, "CRAD-S": 216}
#: How far losses in bf16 may be from those recorded in fp32: bf16 has 8 bits of mantissa.
BF16_TOLERANCE = 3e-2
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print.

    Args:
        arguments: Command-line arguments. Defaults to ``None``: those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", type=Path, help="folder of recorded numbers (crad_head.npz, uniad.npz)")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5, help="turns, of which the median counts (default: 5)")
    parser.add_argument("--steps", type=int, default=20, help="steps a turn (default: 20)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu is for trying the script")
    parser.add_argument("--quick", action="store_true", help="try everything at a toy size")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    console = Console()
    if options.device == "cuda" and not torch.cuda.is_available():
        console.print("This machine has no CUDA card that PyTorch can use: nothing is measured.")
        return
    if options.quick:
        options.batch, options.rounds, options.steps = 2, 1, 1
    name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    console.print(f"{name}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}, {time.strftime('%Y-%m-%d')}")
    if options.golden is None:
        console.print("Recordings are not checked: pass their folder with --golden.")
    else:
        console.print(_table(f"Recordings, {name}", list(recordings(options.golden, options.device))))
    console.print(_table(f"Steps of training, batch {options.batch}, {name}", list(steps_per_second(options))))


def recordings(folder: Path, device: str) -> Iterator[dict[str, Any]]:
    """Train on recorded inputs and compare the losses with the recorded ones.

    Jitter draws other numbers on a GPU, so the recordings with jitter are for a CPU.

    Args:
        folder: Folder of recorded numbers.
        device: Where to train.

    Yields:
        A row for each recording and precision.
    """
    builders: dict[str, Callable[[Any], nn.Module]] = {"crad_head": _recorded_crad, "uniad": _recorded_uniad}
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for name, build in builders.items():
        recorded = np.load(folder / f"{name}.npz")
        for precision, dtype in PRECISIONS.items():
            head = build(recorded).to(device).train()
            fused = optimizer_of(head, fused=True)
            optimizer = fused if name == "crad_head" else torch.optim.AdamW(head.parameters(), 1e-4, weight_decay=1e-4)
            losses = [
                _recorded_step(head, values, optimizer, dtype)
                for values in torch.from_numpy(recorded["train_inputs"]).to(device)
            ]
            expected = recorded["losses"]
            error = float(np.abs(np.array(losses) / expected - 1).max())
            limit = TOLERANCE["losses"] if dtype is None else BF16_TOLERANCE
            yield {
                "recording": name,
                "precision": precision,
                "largest error": f"{error:.1e}",
                "tolerance": limit,
                "holds": "yes" if error <= limit else "NO",
            }


def _recorded_step(
    head: nn.Module, features: torch.Tensor, optimizer: torch.optim.Optimizer, dtype: torch.dtype | None
) -> float:
    optimizer.zero_grad()
    with torch.autocast(features.device.type, dtype, enabled=dtype is not None):
        rebuilt = head(features)
    loss = functional.mse_loss(rebuilt.float(), features)
    loss.backward()
    nn.utils.clip_grad_norm_(head.parameters(), 0.1)
    optimizer.step()
    return loss.item()


def _recorded_crad(recorded: Any) -> nn.Module:  # noqa: ANN401  # numpy's archive
    head = ContinuousMemoryReconstruction(216, (4, 4), num_blocks=2, hidden_channels=16, jitter_probability=0.0)
    head.load_state_dict(convert_state_dict(official_state_dict(recorded)))
    return head


def _recorded_uniad(recorded: Any) -> nn.Module:  # noqa: ANN401  # numpy's archive
    head = UniADReconstruction(
        in_channels=24, feature_size=(5, 6), hidden_dim=32, num_heads=4, num_encoder_layers=2, num_decoder_layers=2,
        feedforward_dim=48, neighbor_size=(3, 3), dropout=0.0, jitter_probability=0.0,
    )  # fmt: skip
    head.load_state_dict(convert_uniad(official_state_dict(recorded)))
    return head


def steps_per_second(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Time steps of each model in every way, in turn.

    Args:
        options: Command-line options.

    Yields:
        A row for each model and way; the first way of a model is its reference.
    """
    for model in (*WIDTHS, "UniAD"):
        torch.compiler.reset()
        ways = _ways(model, options)
        figures: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        failed: dict[str, str] = {}
        for turn in range(options.rounds + 1):
            for name, step in ways.items():
                if name in failed:
                    continue
                try:
                    figure = _turn(step, options)
                except RuntimeError as error:  # no compiler, or no memory: it belongs in the table
                    failed[name] = f"failed: {str(error).splitlines()[0][:60]}"
                    continue
                if turn:  # the first warms up and compiles
                    figures[name].append(figure)
        reference = next((statistics.median(rate for rate, _ in values) for values in figures.values() if values), 0.0)
        for name, values in figures.items():
            if name in failed:
                yield {"model": model, "way": name, "steps/s": failed[name]}
                continue
            rate, memory = (statistics.median(numbers) for numbers in zip(*values, strict=True))
            peak = f"{memory:.0f}" if options.device == "cuda" else "-"
            yield {
                "model": model,
                "way": name,
                "steps/s": f"{rate:.2f}",
                "x": f"{rate / reference:.2f}",
                "peak MiB": peak,
            }


def _turn(step: Callable[[], object], options: argparse.Namespace) -> tuple[float, float]:
    """Steps a second and the peak of the card's memory, MiB."""
    cuda = options.device == "cuda"
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    for _ in range(options.steps):
        step()
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    return options.steps / seconds, torch.cuda.max_memory_allocated() / 2**20 if cuda else 0.0


def _ways(model: str, options: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """Steps from features on, which is what the cache leaves, and from images on, which is a training without it."""
    ways: dict[str, Callable[[], object]] = {}
    if model in WIDTHS:
        sizes = (
            {"channels": 12, "side": 8, "blocks": 1} if options.quick else {"channels": 216, "side": 28, "blocks": 11}
        )
        sizes |= {"width": WIDTHS[model] // (54 if options.quick else 1), "batch": options.batch}
        features = made_up_features(sizes, options.device)
        ours, plain = (head.to(options.device) for head in build_heads(sizes))
        compiled = build_heads(sizes)[0].to(options.device)
        compiled.compile()
        ways["plain head, fp32"] = training_step(plain, features, optimizer_of(plain, fused=False))
        ways["our head, fp32"] = training_step(ours, features, optimizer_of(ours, fused=True))
        ways["our head, fp32, compiled"] = training_step(compiled, features, optimizer_of(compiled, fused=True))
    side = 64 if options.quick else 224
    arguments: dict[str, Any] = {"hidden_channels": WIDTHS[model]} if model in WIDTHS else {}
    if options.quick:
        arguments = {"hidden_channels": 16, "num_blocks": 1} if model in WIDTHS else {"neighbor_size": (1, 1)}
    build: Any = Crad if model in WIDTHS else UniAD
    for precision, dtype in PRECISIONS.items():
        model_options = {"backbone": "tf_efficientnet_b4", "pre_trained": False, "image_size": (side, side)}
        whole = build(**model_options, **arguments).model.to(options.device).train()
        images = torch.rand(options.batch, 3, side, side, device=options.device)
        with torch.no_grad():
            cached = whole.feature_extractor(images)
        ways[f"images, {precision}"] = _whole_step(whole, whole, images, dtype)
        ways[f"cached features, {precision}"] = _whole_step(whole, whole.training_output, cached, dtype)
    return ways


def _whole_step(
    whole: Any,  # noqa: ANN401  # a model's network
    run: Callable[[torch.Tensor], Any],
    values: torch.Tensor,
    dtype: torch.dtype | None,
) -> Callable[[], object]:
    optimizer = optimizer_of(whole.reconstruction, fused=True)
    device = next(whole.parameters()).device.type

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, dtype, enabled=dtype is not None):
            loss = run(values).loss
        loss.backward()
        nn.utils.clip_grad_norm_(whole.reconstruction.parameters(), 0.1)
        optimizer.step()

    return step


def _table(title: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=title)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for name in columns:
        table.add_column(name)
    for row in rows:
        table.add_row(*(str(row.get(name, "")) for name in columns))
    return table


if __name__ == "__main__":
    main()
