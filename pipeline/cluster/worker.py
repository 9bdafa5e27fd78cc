"""What a worker process does before the project's own code runs in it."""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any


def load(dotted: str, threads: int) -> Callable[..., Any]:
    """Import "module:function" with the arithmetic libraries held to `threads` threads.

    The count is part of a run's result, bit for bit, so it follows from what the run asks for and
    not from the machine. A worker process serves one run after another: torch, which reads the
    variables only when it is imported, is told as well where an earlier run has imported it.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    module, separator, function = dotted.partition(":")
    if not separator:
        raise ValueError(f"execute: got {dotted!r}, allowed module:function")
    call: Callable[..., Any] = getattr(importlib.import_module(module), function)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(threads)
    return call
