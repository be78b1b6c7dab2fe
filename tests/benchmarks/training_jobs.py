# SPDX-License-Identifier: Apache-2.0

"""What the training benchmark measures, one job a process, to which memory settings and peak memory belong.

``python training_jobs.py '{"job": "head", ...}'`` runs a job and prints its result as JSON in the last line.
``training.py`` starts these processes in turn; ``gpu_training.py`` uses the heads.

Axis letters: B batch, C channels, H x W positions.
"""

from __future__ import annotations

import json
import logging
import re
import resource
import statistics
import sys
import time
import warnings
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from anomalib.engine import Engine
from anomalib.models import Padim, Patchcore, ReverseDistillation
from lightning.pytorch import Callback
from plain_crad import PlainCradHead
from torch import nn
from torch.nn import functional
from torch.optim import AdamW
from torch.utils.flop_counter import FlopCounterMode

from anomalib_crad import Crad, FeatureCache, MVTec, UniAD
from anomalib_crad.freed_memory import freed_memory_kept
from anomalib_crad.models.crad.torch_model import ContinuousMemoryReconstruction

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning.pytorch import LightningModule, Trainer

CLIP = 0.1
WARM_UP = 2
#: Names of the product's tensors by those of the plain head.
NAMES = {
    r"^local_grid$": "local_memory.grid.values",
    r"^global_grid$": "global_memory.grid.values",
    r"^local_coordinates\.": "local_memory.coordinates.",
    r"^global_coordinates\.0": "global_memory.coordinates.2",
    r"^global_coordinates\.2": "global_memory.coordinates.4",
    r"^blocks\.": "fusion.blocks.",
    r"^recover": "fusion.recover",
    r"\.(expand|depthwise|project)\.weight": r".\1.0.weight",
    r"\.(expand|depthwise|project)_norm\.": r".\1.1.",
    r"\.squeeze\.": ".depthwise.2.fc1.",
    r"\.excite\.": ".depthwise.2.fc2.",
}


@dataclass
class Cost:
    """What steps of a training cost.

    Attributes:
        seconds: Seconds by the clock, the median of the steps.
        cpu_seconds: User and system time of a step.
        faults: Page faults of a step.
        peak_mib: Largest resident memory of the process, MiB.
        base_mib: Resident memory before the first step, MiB: Python, the libraries and the weights.
        extra: Further figures.
    """

    seconds: float
    cpu_seconds: float
    faults: float
    peak_mib: float
    base_mib: float
    extra: dict[str, float] = field(default_factory=dict)


def plain_state_dict(head: PlainCradHead, product: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the product's tensors for the plain head.

    Args:
        head: The plain head.
        product: State dict of the product's head.

    Returns:
        A state dict of the plain head.
    """
    converted = {}
    for name, value in head.state_dict().items():
        theirs = name
        for pattern, replacement in NAMES.items():
            theirs = re.sub(pattern, replacement, theirs)
        converted[name] = product[theirs].view_as(value).clone()
    return converted


def build_heads(options: dict[str, Any]) -> tuple[ContinuousMemoryReconstruction, PlainCradHead]:
    """Build the product's head and the plain one with the same weights, in training mode and without jitter.

    Args:
        options: ``channels``, ``side``, ``width`` and ``blocks``.
    """
    torch.manual_seed(0)
    shape = options["channels"], (options["side"], options["side"])
    sizes = {"num_blocks": options["blocks"], "hidden_channels": options["width"]}
    ours = ContinuousMemoryReconstruction(*shape, **sizes, jitter_probability=0.0)
    plain = PlainCradHead(*shape, **sizes)
    plain.load_state_dict(plain_state_dict(plain, ours.state_dict()))
    return ours.train(), plain.train()


def made_up_features(options: dict[str, Any], device: str = "cpu") -> torch.Tensor:
    """Features as an activation gives them, B x C x H x W.

    Args:
        options: ``batch``, ``channels`` and ``side``.
        device: Where they are. Defaults to ``"cpu"``.
    """
    generator = torch.Generator().manual_seed(1)
    shape = (options["batch"], options["channels"], options["side"], options["side"])
    return torch.randn(shape, generator=generator).relu_().to(device)


def optimizer_of(head: nn.Module, fused: bool) -> AdamW:
    """Both learning rates of CRAD.

    Args:
        head: The product's head or the plain one.
        fused: Update all parameters in one pass.
    """
    grids = [value for name, value in head.named_parameters() if "grid" in name]
    known = {id(value) for value in grids}
    networks = [value for value in head.parameters() if id(value) not in known]
    groups = [{"params": networks, "lr": 1e-3}, {"params": grids, "lr": 0.1}]
    return AdamW(groups, weight_decay=0.01, fused=True if fused else None)


def training_step(head: nn.Module, features: torch.Tensor, optimizer: AdamW) -> Callable[[], torch.Tensor]:
    """A function that does one step of training and returns the loss."""

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = functional.mse_loss(head(features), features)
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), CLIP)
        optimizer.step()
        return loss.detach()

    return step


def head_step(options: dict[str, Any]) -> Cost:
    """Time steps of a head: ``way`` is ``ours``, ``plain`` or ``compiled``; ``keep`` keeps freed memory."""
    ours, plain = build_heads(options)
    head: nn.Module = plain if options["way"] == "plain" else ours
    step = training_step(head, made_up_features(options), optimizer_of(head, fused=head is ours))
    if options["way"] == "compiled":
        head.compile()
    with freed_memory_kept() if options["keep"] else nullcontext():
        return repeated(step, options["steps"])


def agreement(options: dict[str, Any]) -> Cost:
    """Check that the same weights give the same losses in both heads, and count operations of a step."""
    ours, plain = build_heads(options)
    features = made_up_features(options)
    with FlopCounterMode(display=False) as counter:
        functional.mse_loss(plain(features), features).backward()
    plain.load_state_dict(plain_state_dict(plain, ours.state_dict()))  # the counted pass moved running statistics
    steps = [training_step(head, features, optimizer_of(head, fused=head is ours)) for head in (ours, plain)]
    for number in range(3):
        losses = [step().item() for step in steps]
        if abs(losses[0] - losses[1]) > (1e-5 if number == 0 else 1e-3) * abs(losses[1]):
            msg = f"Step {number}: the loss is {losses[0]} in our head, {losses[1]} in the plain one."
            raise AssertionError(msg)
    return Cost(0, 0, 0, 0, 0, {"flops": counter.get_total_flops()})


def multiplication_peak(options: dict[str, Any]) -> Cost:
    """Measure the fastest matrix products, and the head's largest 1 x 1 convolutions alone, in operations a second."""
    rates = {}
    for side in options["sides"]:
        left, right = torch.rand(side, side), torch.rand(side, side)
        rates[f"product of {side} x {side}"] = 2 * side**3 / fastest(lambda: left @ right)  # noqa: B023  # called at once
    inner = 2 * options["channels"]
    values = torch.rand(options["batch"], inner, options["side"], options["side"])
    weight = torch.rand(options["width"], inner, 1, 1)
    with torch.no_grad():
        seconds = fastest(lambda: torch.conv2d(values, weight))
    rates["1 x 1 convolution"] = 2 * values.numel() * options["width"] / seconds
    return Cost(0, 0, 0, 0, 0, rates)


def fastest(run: Callable[[], object], repeats: int = 9) -> float:
    """Seconds of the fastest of several runs."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return min(times)


def repeated(step: Callable[[], torch.Tensor], count: int) -> Cost:
    """Run steps and measure what they cost."""
    base = resident_mib()
    for _ in range(WARM_UP):
        loss = step()
    begin, times = resource.getrusage(resource.RUSAGE_SELF), []
    for _ in range(count):
        start = time.perf_counter()
        loss = step()
        times.append(time.perf_counter() - start)
    cost = cost_since(begin, count, statistics.median(times), base)
    cost.extra["loss"] = loss.item()
    return cost


def cost_since(begin: resource.struct_rusage, count: int, seconds: float, base: float) -> Cost:
    """What ``count`` repetitions since ``begin`` cost, each."""
    end = resource.getrusage(resource.RUSAGE_SELF)
    cpu = end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime
    return Cost(seconds, cpu / count, (end.ru_minflt - begin.ru_minflt) / count, end.ru_maxrss / 1024, base)


def resident_mib() -> float:
    """Resident memory of this process, MiB."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


class Epochs(Callback):
    """When epochs begin and end, and their losses."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.losses: list[float] = []
        self.usage: list[resource.struct_rusage] = []
        self.begin = time.perf_counter()
        self.first_pass = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the time; what came before the first epoch is the pass that fills the cache."""
        if not self.times:
            self.first_pass = time.perf_counter() - self.begin
        self.usage.append(resource.getrusage(resource.RUSAGE_SELF))
        self.begin = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what the epoch took."""
        self.times.append(time.perf_counter() - self.begin)
        loss = trainer.callback_metrics.get("train_loss_epoch")
        self.losses.append(float("nan") if loss is None else float(loss))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the first pass."""
        self.begin = time.perf_counter()


def epoch(options: dict[str, Any]) -> Cost:
    """Time the epochs after the first of the whole pipeline; ``cache`` is ``off``, ``memory``, ``file`` or ``half``."""
    width, model_options = {"CRAD-S": 216, "CRAD": 864}.get(options["model"]), {}
    if width is not None:
        model_options = {"hidden_channels": width} if not options["quick"] else {"hidden_channels": 16, "num_blocks": 1}
    build = UniAD if options["model"] == "UniAD" else Crad
    side = options["image_side"]
    model = build(
        backbone="tf_efficientnet_b4",
        pre_trained=False,
        image_size=(side, side),
        seed=0,
        visualizer=False,
        feature_cache=options["cache"] != "off",
        **({"neighbor_size": (1, 1)} if build is UniAD and options["quick"] else model_options),
    )
    settings: dict[str, dict[str, Any]] = {"file": {"folder": options["folder"]}, "half": {"half_precision": True}}
    callbacks: list[Callback] = [FeatureCache(**settings[options["cache"]])] if options["cache"] in settings else []
    return _fit(model, options, options["epochs"], callbacks)


def host_fit(options: dict[str, Any]) -> Cost:
    """Time a fit of one of anomalib's own models; ``keep`` keeps freed memory."""
    models = {"PatchCore": Patchcore, "PaDiM": Padim, "ReverseDistillation": ReverseDistillation}
    backbone: dict[str, Any] = {"backbone": "resnet18", "pre_trained": False}
    model = models[options["model"]](**backbone, visualizer=False, evaluator=False)
    with freed_memory_kept() if options["keep"] else nullcontext():
        start, begin, base = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF), resident_mib()
        _fit(model, options, 1, [])
        return cost_since(begin, 1, time.perf_counter() - start, base)


def _fit(model: Any, options: dict[str, Any], epochs: int, callbacks: list[Callback]) -> Cost:  # noqa: ANN401
    data = MVTec(
        root=options["images"],
        category=["made_up"],
        train_batch_size=options["batch"],
        eval_batch_size=options["batch"],
        num_workers=options["workers"],
    )
    timer = Epochs()
    engine = Engine(
        default_root_dir=options["folder"],
        accelerator="cpu",
        callbacks=[timer, *callbacks],
        max_epochs=epochs,
        limit_val_batches=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    base = resident_mib()
    engine.fit(model, datamodule=data)
    later = timer.times[1:] or timer.times
    cost = cost_since(timer.usage[-len(later)], len(later), statistics.median(later), base)
    cost.extra = {"first_pass": timer.first_pass, "first_epoch": timer.times[0], "loss": timer.losses[-1]}
    return cost


JOBS: dict[str, Callable[[dict[str, Any]], Cost]] = {
    "head": head_step,
    "agreement": agreement,
    "peak": multiplication_peak,
    "epoch": epoch,
    "host": host_fit,
}


def main() -> None:
    """Run the job that the argument describes."""
    options = json.loads(sys.argv[1])
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if options.get("threads"):
        torch.set_num_threads(options["threads"])
    result = JOBS[options["job"]](options)
    print(f"\n{json.dumps(asdict(result))}")


if __name__ == "__main__":
    main()
