# SPDX-License-Identifier: Apache-2.0

"""How fast training is, each figure beside its reference in the same run.

Four parts: a step of CRAD's head beside the plain transcription of the method (``plain_crad``) and the peak of the
matrix product; epochs of the whole pipeline with and without the cache of features; settings of the allocator, on our
heads and on anomalib's own models; ``torch.compile``. Every measurement is a process of its own
(``training_jobs.py``), and what is compared takes turns. Run it on a quiet machine::

    python tests/benchmarks/training.py

It writes ``docs/benchmarks/training.csv`` and fills the tables of ``docs/benchmarks/training.md``. ``--quick`` tries
everything at a size whose figures mean nothing.
"""

from __future__ import annotations

import argparse
import csv
import ctypes.util
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from anomalib_crad.files import staged_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

JOBS = Path(__file__).with_name("training_jobs.py")
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks" / "training.md"
PARTS = ("head", "epoch", "memory", "compile")
WIDTHS = {"CRAD": 864, "CRAD-S": 216}
HEAD = {"channels": 216, "side": 28, "blocks": 11}
PLAIN, PLAIN_KEPT, OURS = "plain, as a user runs it", "plain, same memory settings", "ours"
EPOCH_GOALS = {"CRAD-S": 0.4, "CRAD": 0.55, "UniAD": 0.25}
HOST_MODELS = ("PatchCore", "PaDiM", "ReverseDistillation")
COLUMNS = {
    "part": "Part",
    "case": "Case",
    "way": "Way",
    "seconds": "s",
    "cpu_seconds": "CPU s",
    "faults": "page faults",
    "peak_mib": "peak MiB",
    "own_mib": "of it, own",
    "to_reference": "x time",
    "memory_to_reference": "x memory",
    "share_of_peak": "share of peak",
    "loss": "loss",
    "goal": "goal",
}


@dataclass
class Way:
    """One of the ways that are compared in a case; the first is the reference.

    Attributes:
        name: Name in the tables.
        job: What ``training_jobs.py`` is asked for.
        environment: Variables that its process gets.
        goal: What the issue asks for.
    """

    name: str
    job: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)
    goal: str = ""


@dataclass
class Case:
    """Ways that are compared with each other, in turn.

    Attributes:
        part: One of :data:`PARTS`.
        name: Model and size.
        ways: The reference first.
    """

    part: str
    name: str
    ways: list[Way]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write.

    Args:
        arguments: Command-line arguments. Defaults to ``None``: those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3, help="processes of each way; the median counts (default: 3)")
    parser.add_argument("--steps", type=int, default=5, help="steps of a head in a process (default: 5)")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of the pipeline in a process (default: 3)")
    parser.add_argument("--images", type=int, default=48, help="training images of the pipeline (default: 48)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of PyTorch (default: all cores)")
    parser.add_argument("--output", type=Path, default=PAGE.parent, help="folder of training.csv and training.md")
    parser.add_argument("--quick", action="store_true", help="try everything at a toy size, in a temporary folder")
    options = parser.parse_args(arguments)
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        if options.quick:
            options.rounds, options.steps, options.epochs, options.images = 1, 1, 2, 4
            options.output = Path(folder)
            shutil.copy(PAGE, folder)
        notes, rows = _measure(options, Path(folder), console)
        for part in options.parts:
            console.print(_terminal_table(part, rows))
        for note in notes:
            console.print(note, soft_wrap=True)
        write_csv(options.output / "training.csv", rows)
        fill_page(options.output / "training.md", notes, rows)


def _measure(options: argparse.Namespace, folder: Path, console: Console) -> tuple[list[str], list[dict[str, Any]]]:
    make_images(folder / "images", options.images, 64 if options.quick else 900)
    cases, skipped = _cases(options, folder)
    sizes = _head_options(options, "CRAD", max(_batches(options)))
    flops = {case: _run({"job": "agreement", **size}, {}, options)["extra"]["flops"] for case, size in _heads(options)}
    console.print("The same weights give the same losses in both heads.")
    notes = [*description(options), *skipped]
    peaks: dict[str, list[float]] = defaultdict(list)
    results: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for number in range(options.rounds):
        peak = {"job": "peak", "sides": [64] if options.quick else [1024, 2048, 4096], **sizes}
        for name, rate in _run(peak, {}, options)["extra"].items():
            peaks[name].append(rate)
        for case in cases:
            for way in case.ways:
                console.print(
                    f"[dim]round {number + 1} of {options.rounds}: {case.part}, {case.name}, {way.name}[/dim]"
                )
                results[case.part, case.name, way.name].append(_run(way.job, way.environment, options))
    best = max(peaks, key=lambda name: max(peaks[name]))
    rates = ", ".join(f"{name} {max(values) / 1e9:.0f}" for name, values in peaks.items())
    notes.append(f"Peak, in GFLOP/s: {rates}. The highest is that of the {best}, and shares refer to it.")
    rows = [row for case in cases for row in _rows(case, results, flops.get(case.name), max(peaks[best]))]
    return notes, rows


def _batches(options: argparse.Namespace) -> tuple[int, ...]:
    return (2,) if options.quick else (16, 8)


def _head_options(options: argparse.Namespace, model: str, batch: int) -> dict[str, Any]:
    sizes = {"channels": 12, "side": 8, "blocks": 1} if options.quick else HEAD
    width = WIDTHS[model] // (54 if options.quick else 1)
    return {**sizes, "width": width, "batch": batch, "steps": options.steps}


def _heads(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    for model in WIDTHS:
        for batch in _batches(options):
            yield f"{model}, batch {batch}", _head_options(options, model, batch)


def _cases(options: argparse.Namespace, folder: Path) -> tuple[list[Case], list[str]]:
    cases: list[Case] = []
    skipped: list[str] = []
    preload = jemalloc()
    if "head" in options.parts:
        cases += [Case("head", name, _head_ways(sizes)) for name, sizes in _heads(options)]
    if "epoch" in options.parts:
        cases += [Case("epoch", model, _epoch_ways(model, options, folder)) for model in EPOCH_GOALS]
    if "memory" in options.parts:
        if preload is None:
            skipped.append("jemalloc is not measured: libjemalloc.so.2 is not installed.")
        cases += list(_memory_cases(options, folder, preload))
    if "compile" in options.parts:
        compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
        if compiler is None:
            skipped.append("torch.compile is not measured: no C++ compiler is installed.")
        else:
            name, sizes = next(_heads(options))
            ways = [("ours", OURS), ("compiled", "torch.compile")]
            jobs = [Way(title, {"job": "head", "way": way, "keep": True, **sizes}) for way, title in ways]
            cases.append(Case("compile", name, jobs))
    return cases, skipped


def _head_ways(sizes: dict[str, Any]) -> list[Way]:
    return [
        Way(PLAIN, {"job": "head", "way": "plain", "keep": False, **sizes}),
        Way(PLAIN_KEPT, {"job": "head", "way": "plain", "keep": True, **sizes}),
        Way(
            OURS,
            {"job": "head", "way": "ours", "keep": True, **sizes},
            goal="0.5 x plain, 0.8 x with the same settings, 0.6 x memory, 85 % of the peak",
        ),
    ]


def _fit_options(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    return {
        "images": str(folder / "images"),
        "folder": str(folder / "runs"),
        "workers": 0 if options.quick else 2,
        "batch": 2 if options.quick else 16,
        "quick": options.quick,
    }


def _epoch_ways(model: str, options: argparse.Namespace, folder: Path) -> list[Way]:
    side = 64 if options.quick else 224
    job = {
        "job": "epoch",
        "model": model,
        "epochs": options.epochs,
        "image_side": side,
        **_fit_options(options, folder),
    }
    goal = f"{EPOCH_GOALS[model]} x"
    ways = {"no cache": "off", "cache in memory": "memory", "cache in a file": "file", "cache of 16 bits": "half"}
    return [Way(name, {**job, "cache": cache}, goal=goal if cache == "memory" else "") for name, cache in ways.items()]


def _memory_cases(options: argparse.Namespace, folder: Path, preload: str | None) -> Iterator[Case]:
    jobs: dict[str, dict[str, Any]] = {}
    for name, sizes in _heads(options):
        if name.endswith(f"batch {max(_batches(options))}"):
            jobs[f"step of our head, {name}"] = {"job": "head", "way": "ours", **sizes}
            jobs[f"step of the plain head, {name}"] = {"job": "head", "way": "plain", **sizes}
    for model in HOST_MODELS[:2] if options.quick else HOST_MODELS:
        jobs[f"fit of {model}"] = {"job": "host", "model": model, **_fit_options(options, folder)}
    for name, job in jobs.items():
        ways = [Way("glibc as it is", {**job, "keep": False}), Way("freed memory kept", {**job, "keep": True})]
        if preload is not None:
            ways.append(Way("jemalloc", {**job, "keep": False}, {"LD_PRELOAD": preload}))
        yield Case("memory", name, ways)


def jemalloc() -> str | None:
    """Name of the jemalloc library, or ``None`` if the linker does not find it."""
    name = ctypes.util.find_library("jemalloc")
    return name if name is not None and name.endswith(".so.2") else None


def _run(job: dict[str, Any], environment: dict[str, str], options: argparse.Namespace) -> dict[str, Any]:
    """Run a job in a process of its own, without the caller's settings of memory."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    own |= {"ANOMALIB_CRAD_KEEP_FREED_MEMORY": "1", **environment}
    command = [sys.executable, str(JOBS), json.dumps({"threads": options.threads, **job})]
    ended = subprocess.run(command, env=own, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        msg = f"{job} failed:\n{ended.stderr[-3000:]}"
        raise RuntimeError(msg)
    return json.loads(ended.stdout.splitlines()[-1])


def _rows(
    case: Case, results: dict[tuple[str, str, str], list[dict[str, Any]]], flops: float | None, peak: float
) -> Iterator[dict[str, Any]]:
    """Medians of the ways of a case, beside the first one."""
    reference: dict[str, float] = {}
    for way in case.ways:
        runs = results[case.part, case.name, way.name]
        median = {key: statistics.median(run[key] for run in runs) for key in runs[0] if key != "extra"}
        median["own_mib"] = median["peak_mib"] - median["base_mib"]
        reference = reference or median
        row: dict[str, Any] = {"part": case.part, "case": case.name, "way": way.name, "goal": way.goal}
        row |= {key: round(median[key], 3) for key in ("seconds", "cpu_seconds")}
        row |= {key: round(median[key]) for key in ("faults", "peak_mib", "own_mib")}
        row["to_reference"] = round(median["seconds"] / reference["seconds"], 3)
        row["memory_to_reference"] = round(median["peak_mib"] / reference["peak_mib"], 3)
        if flops is not None and case.part in {"head", "compile"}:
            row["share_of_peak"] = round(flops / median["seconds"] / peak, 3)
        losses = [run["extra"]["loss"] for run in runs if "loss" in run["extra"]]
        row["loss"] = f"{losses[0]:.6g}" if losses else ""
        row |= {key: value for key, value in runs[0]["extra"].items() if key in {"first_pass", "first_epoch"}}
        yield row


def make_images(root: Path, count: int, side: int) -> None:
    """Write made-up images in the layout of MVTec AD: smooth shapes with grain, which decode like photographs.

    Args:
        root: Folder.
        count: Training images.
        side: Height and width.
    """
    rng = np.random.default_rng(0)
    axis = np.linspace(0, 6, side)
    for split, number in [("train/good", count), ("test/good", 2), ("test/scratch", 2)]:
        folder = root / "made_up" / split
        folder.mkdir(parents=True)
        for index in range(number):
            waves = np.sin(axis[:, None] * rng.uniform(1, 3)) * np.cos(axis[None] * rng.uniform(1, 3))
            grain = rng.normal(0, 6, (side, side, 1))
            image = 128 + 80 * waves[..., None] * rng.uniform(0.5, 1, 3) + grain
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{index:03}.png")
    masks = root / "made_up" / "ground_truth" / "scratch"
    masks.mkdir(parents=True)
    for index in range(2):
        mask = np.zeros((side, side), np.uint8)
        mask[side // 4 : side // 2] = 255
        Image.fromarray(mask).save(masks / f"{index:03}_mask.png")


def description(options: argparse.Namespace) -> list[str]:
    """Describe machine, instruction set, versions, date and command in sentences."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    facts = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    flags = facts.get("flags", "").split()
    found = [name for name, flag in {"AVX2": "avx2", "AVX-512": "avx512f"}.items() if flag in flags]
    threads = options.threads
    command = (
        f"python tests/benchmarks/training.py --parts {' '.join(options.parts)} --rounds {options.rounds} "
        f"--steps {options.steps} --epochs {options.epochs} --images {options.images} --threads {threads}"
    )
    return [
        (
            f"Machine: {facts.get('model name', platform.processor())}, {os.cpu_count()} cores, {threads} threads; "
            f"{', '.join(found) or 'no AVX'} (PyTorch uses {torch.backends.cpu.get_cpu_capability()})."
        ),
        f"Python {platform.python_version()}, PyTorch {torch.__version__}, {' '.join(platform.libc_ver())}.",
        (
            f"Date: {time.strftime('%Y-%m-%d')}. Command: `{command}`; "
            f"{options.rounds} processes of each way in turn, medians."
        ),
    ]


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    return [name for name in COLUMNS if name != "part" and any(row.get(name) not in {None, ""} for row in rows)]


def _terminal_table(part: str, rows: list[dict[str, Any]]) -> Table:
    chosen = [row for row in rows if row["part"] == part]
    table = Table(title=part)
    for name in _columns(chosen):
        table.add_column(COLUMNS[name])
    for row in chosen:
        table.add_row(*(str(row.get(name, "")) for name in _columns(chosen)))
    return table


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write all figures.

    Args:
        path: The file.
        rows: Rows of the tables.
    """
    with staged_file(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*COLUMNS, "first_pass", "first_epoch"], restval="")
        writer.writeheader()
        writer.writerows(rows)


def fill_page(path: Path, notes: list[str], rows: list[dict[str, Any]]) -> None:
    """Replace what lies between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``; parts not measured stay.

    Args:
        path: The page.
        notes: Sentences about the run.
        rows: Rows of the tables.
    """
    text = path.read_text(encoding="utf-8")
    blocks = {"run": "\n".join(f"- {note}" for note in notes)}
    for part in dict.fromkeys(row["part"] for row in rows):
        chosen = [row for row in rows if row["part"] == part]
        columns = _columns(chosen)
        lines = [[COLUMNS[name] for name in columns], ["---"] * len(columns)]
        lines += [[str(row.get(name, "")) for name in columns] for row in chosen]
        blocks[part] = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    for name, block in blocks.items():
        pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        text, count = pattern.subn(lambda match, block=block: f"{match[1]}{block}\n{match[2]}", text)  # type: ignore[misc]
        if count != 1:
            msg = f"'{path}' must have one place for the table '{name}', it has {count}."
            raise ValueError(msg)
    with staged_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
