# SPDX-License-Identifier: Apache-2.0

"""Keep freed memory in the process while a model trains, is tested or is exported on a CPU.

glibc returns every buffer above 32 MiB to the kernel as soon as it is freed. A step of training frees and allocates
hundreds of such buffers, and the kernel clears every page of each again, which takes a large part of a step of a wide
head. With higher thresholds the process reuses its buffers, for a few percent more memory. PyTorch's caching allocator
does the same on a GPU.

The settings apply to the process, so they are made for the time of a job only. They are left alone where the user has
made them (``MALLOC_*`` or ``GLIBC_TUNABLES``), and on any other C library. ``ANOMALIB_CRAD_KEEP_FREED_MEMORY=0``
switches them off.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

logger = logging.getLogger(__name__)

VARIABLE = "ANOMALIB_CRAD_KEEP_FREED_MEMORY"

_MIB = 2**20
# Names and numbers of malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
#: Buffers up to 1 GiB come from the heap, which keeps up to 2 GiB of freed memory and grows by 64 MiB at a time.
_KEEPING = {_M_MMAP_THRESHOLD: 1024 * _MIB, _M_TRIM_THRESHOLD: 2048 * _MIB - 1, _M_TOP_PAD: 64 * _MIB}
#: glibc's upper limits for its adaptive thresholds, and its default padding. Adaptation cannot be switched on again.
_RETURNING = {_M_MMAP_THRESHOLD: 32 * _MIB, _M_TRIM_THRESHOLD: 64 * _MIB, _M_TOP_PAD: 128 * 1024}
#: Processes in which freed memory is kept; a forked one inherits the settings, but not the duty to take them back.
_kept: set[int] = set()
_OWN_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_")


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory for the next allocation.

    Returns:
        Whether it does: not on another C library, with the user's own settings, or where that is switched off.
    """
    if not _is_wanted() or not _set(_KEEPING):
        return False
    _kept.add(os.getpid())
    _log_once()
    return True


def return_freed_memory() -> None:
    """Return what is free to the kernel, now and from now on, as glibc does by itself; nothing if nothing was kept."""
    if os.getpid() in _kept and _set(_RETURNING):
        _kept.discard(os.getpid())
        _libc().malloc_trim(0)


@contextmanager
def freed_memory_kept() -> Generator[bool, None, None]:
    """Keep freed memory within a block.

    Yields:
        What :func:`keep_freed_memory` returns.
    """
    kept = keep_freed_memory()
    try:
        yield kept
    finally:
        if kept:
            return_freed_memory()


def _is_wanted() -> bool:
    if os.environ.get(VARIABLE, "1").strip().lower() in {"0", "false", "no", "off"}:
        return False
    return not any(name in os.environ for name in _OWN_SETTINGS) and "malloc" not in os.environ.get(
        "GLIBC_TUNABLES", ""
    )


def _set(settings: dict[int, int]) -> bool:
    if platform.libc_ver()[0] != "glibc":
        return False
    return all(_libc().mallopt(name, value) == 1 for name, value in settings.items())


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


@cache
def _log_once() -> None:
    logger.info("Freed memory is kept for reuse while this runs on a CPU (%s=0 switches that off).", VARIABLE)
