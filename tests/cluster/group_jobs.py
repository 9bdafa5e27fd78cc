"""Work functions for runs in several processes; Ray's workers import them."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ecocseg.engine.distributed import current_group
from ecocseg.engine.step import Learner
from ecocseg.errors import ConfigError
from pipeline.runner.run import execute_run


def killed_once(row: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """A run whose second process is killed in its fourth step, unless one was before.

    It is executed twice: the second time it is finished, which all processes have to hear.
    """
    mark, original = Path(settings["results"]) / "killed", Learner.train_step

    def train_step(self: Learner, *arguments: Any) -> Any:
        if self.step == 3 and self.group.rank == 1 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *arguments)

    Learner.train_step = train_step  # type: ignore[method-assign]
    try:
        execute_run(row, settings)
        execute_run(row, settings)
    finally:
        Learner.train_step = original  # type: ignore[method-assign]


def second_fails(row: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """The second process raises while the first waits for it."""
    group = current_group()
    if group.rank == 1:
        raise ConfigError("schedule.steps: got -1, allowed is 1 or more")
    group.sum(torch.zeros(1))
