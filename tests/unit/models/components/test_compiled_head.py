# SPDX-License-Identifier: Apache-2.0

"""The compiled head: the same training, and the plain head with a reason in the log where it cannot be compiled."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

import pytest
import torch
from anomalib.engine import Engine
from made_up_models import datamodule, narrow_crad, narrow_uniad
from torch._inductor.utils import fresh_cache

from anomalib_crad import CompiledHead, Crad, UniAD

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def trained(
    root: Path, folder: Path, build: Callable[..., Crad | UniAD], *callbacks: CompiledHead
) -> tuple[Crad | UniAD, float]:
    """A trained model, and the mean loss of its last epoch."""
    engine = Engine(
        default_root_dir=folder,
        accelerator="cpu",
        callbacks=list(callbacks),
        max_epochs=2,
        limit_val_batches=0,
        logger=False,
    )
    model = build(seed=3)
    engine.fit(model, datamodule=datamodule(root, train_batch_size=6))
    return model, engine.trainer.callback_metrics["train_loss_epoch"].item()


def use_backend(patch: pytest.MonkeyPatch, backend: Any) -> None:  # noqa: ANN401  # a name or a function
    torch.compiler.reset()
    patch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))


@pytest.mark.parametrize("build", [narrow_crad, narrow_uniad])
def test_it_trains_as_the_plain_head_does(
    build: Callable[..., Crad | UniAD],
    tiny_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain, loss = trained(tiny_root, tmp_path / "plain", build)
    use_backend(monkeypatch, "aot_eager")

    with caplog.at_level(logging.INFO):
        compiled, compiled_loss = trained(tiny_root, tmp_path / "compiled", build, CompiledHead())

    assert "The training step of the head is compiled." in caplog.text
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    assert "training_output" not in vars(compiled.model)
    assert compiled_loss == pytest.approx(loss, rel=1e-3)


def test_the_plain_head_trains_if_the_backend_fails(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def backend(*_: object) -> None:
        msg = "operation not supported"
        raise NotImplementedError(msg)

    plain, _ = trained(tiny_root, tmp_path / "plain", narrow_crad)
    use_backend(monkeypatch, backend)

    model, _ = trained(tiny_root, tmp_path / "fallback", narrow_crad, CompiledHead())

    assert "The head is not compiled" in caplog.text
    assert "operation not supported" in caplog.text
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(model.model.state_dict()[name], value, rtol=0, atol=0, msg=name)


def test_the_plain_head_trains_without_a_compiler(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torch.compiler.reset()
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "no-such-compiler"))
    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", _no_compiler)

    with fresh_cache():
        trained(tiny_root, tmp_path, narrow_crad, CompiledHead())

    assert "The head is not compiled: InvalidCxxCompiler" in caplog.text


def _no_compiler(*_: object) -> str:
    from torch._inductor.exc import InvalidCxxCompiler

    raise InvalidCxxCompiler


def test_a_step_that_fails_later_runs_plainly(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The last batch of an epoch is smaller than the one that was tried, so it is compiled anew."""
    sizes: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        shapes = [value.shape for value in inputs if isinstance(value, torch.Tensor) and value.ndim == 4]
        sizes.extend(shape[0] for shape in shapes)
        if any(not isinstance(shape[0], int) or shape[0] == 4 for shape in shapes):
            msg = "not this size"
            raise NotImplementedError(msg)
        return graph.forward

    use_backend(monkeypatch, backend)

    model, _ = trained(tiny_root, tmp_path, narrow_uniad, CompiledHead())

    assert "The head is no longer compiled" in caplog.text
    assert "training_output" not in vars(model.model)
