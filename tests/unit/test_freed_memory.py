# SPDX-License-Identifier: Apache-2.0

"""Freed memory is reused, counted in page faults of a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from textwrap import dedent

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")

_PAGES = 48 * 2**20 // os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0


def _run(code: str, **environment: str) -> list[str]:
    """Run code that can use `faults()`: the page faults of allocating, filling and freeing 48 MiB five times."""
    setup = """
    import ctypes, resource
    from anomalib_crad.freed_memory import freed_memory_kept, keep_freed_memory, return_freed_memory
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    def use():
        pointer = libc.malloc(48 * 2**20)
        ctypes.memset(pointer, 1, 48 * 2**20)
        libc.free(pointer)
    def faults():
        use()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(5):
            use()
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    result = subprocess.run(
        [sys.executable, "-c", dedent(setup) + dedent(code)],
        capture_output=True,
        text=True,
        check=True,
        env={**own, **environment},
    )
    return result.stdout.split()


def test_buffers_are_reused_until_the_block_ends() -> None:
    before, within, after = map(
        int,
        _run("""
        before = faults()
        with freed_memory_kept():
            within = faults()
        print(before, within, faults())
        """),
    )

    assert before >= 5 * _PAGES
    assert within < _PAGES
    assert after >= 5 * _PAGES


@pytest.mark.parametrize("variable", [{"ANOMALIB_CRAD_KEEP_FREED_MEMORY": "0"}, {"MALLOC_TOP_PAD_": "131072"}])
def test_it_is_switched_off_by_a_variable_and_leaves_the_users_settings_alone(variable: dict[str, str]) -> None:
    kept, faults = _run("print(keep_freed_memory(), faults())", **variable)

    assert kept == "False"
    assert int(faults) >= 5 * _PAGES


def test_it_is_named_in_the_log_once() -> None:
    lines = _run("""
    import logging, sys
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(name)s")
    for _ in range(3):
        with freed_memory_kept():
            pass
    """)

    assert lines == ["anomalib_crad.freed_memory"]
