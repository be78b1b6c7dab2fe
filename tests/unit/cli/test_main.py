# SPDX-License-Identifier: Apache-2.0

"""The console script and ``python -m anomalib_crad``: what they run, and how soon their help appears."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from typing import get_args

import anomalib.cli.cli
import pytest

from anomalib_crad.cli import main as main_module
from anomalib_crad.cli import stream
from anomalib_crad.cli.main import COMMANDS, main
from anomalib_crad.deploy import stream_folder


def start(monkeypatch: pytest.MonkeyPatch, *arguments: str, script: str = "/bin/anomalib-crad") -> int:
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    return main()


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_our_commands(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(monkeypatch, *arguments) == 0
    shown = capsys.readouterr().out
    for name, line in COMMANDS.items():
        assert f"  {name} " in shown
        assert line in shown
    assert "usage: anomalib-crad COMMAND" in shown
    assert "anomalib-crad train --model Crad" in shown
    assert max(map(len, shown.splitlines())) <= 120


@pytest.mark.parametrize(
    ("script", "prog"),
    [("/bin/anomalib-crad", "anomalib-crad"), ("/lib/anomalib_crad/__main__.py", "python -m anomalib_crad")],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_ours_runs_under_the_name_it_was_started_with(
    command: str, script: str, prog: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        start(monkeypatch, command, "--help", script=script)
    assert f"usage: {prog} {command} " in capsys.readouterr().out


def test_a_command_of_ours_gets_its_arguments_and_gives_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    class Command:
        @staticmethod
        def main(arguments: list[str], prog: str) -> int:
            assert (arguments, prog) == (["--a", "b"], "anomalib-crad verify")
            return 7

    monkeypatch.setattr(main_module, "import_module", lambda _: Command)
    assert start(monkeypatch, "verify", "--a", "b") == 7


def test_any_other_command_is_anomalibs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(anomalib.cli.cli, "main", lambda: seen.append(sys.argv[1:]))
    assert start(monkeypatch, "train", "--model", "Crad") == 0
    assert seen == [["train", "--model", "Crad"]]


@pytest.mark.parametrize("arguments", [[], *([name] for name in ("quickstart", "benchmark", "verify", "stream"))])
def test_help_does_not_wait_for_torch(arguments: list[str]) -> None:
    code = f"""
import sys
from anomalib_crad.cli.main import main
sys.argv = ["anomalib-crad", *{arguments}, "--help"]
try:
    main()
except SystemExit:
    pass
assert not {{"torch", "anomalib", "pandas"}} & set(sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "usage:" in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_own_file(command: str) -> None:
    assert callable(import_module(f"anomalib_crad.cli.{command}").main)


def test_stream_names_what_its_room_does() -> None:
    """The help does not load that room."""
    module = sys.modules[stream_folder.__module__]
    assert get_args(module.Overlays) == stream.OVERLAYS
    assert module.RESULTS == stream.RESULTS
