"""Finds the step whose loss or gradient is no finite number, without making a GPU wait for it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

REMEDY = (
    "lower schedule.optim.lr, lengthen schedule.optim.warmup_steps or set schedule.clip_norm "
    "(or a smaller one)"
)


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The first step that went wrong."""

    step: int
    """Counted from 1, as in events."""
    terms: Mapping[str, float]
    """What the step's curves would have had, and `gradient_norm`."""

    def __str__(self) -> str:
        what = "loss" if _odd(self.terms["loss"]) else "gradient_norm"
        others = [f"{name} {value:g}" for name, value in self.terms.items() if name != what]
        beside = f" ({', '.join(others)})" if others else ""
        name = what.replace("_norm", "")
        return f"the {name} became {self.terms[what]:g} at step {self.step}{beside}; {REMEDY}"


@dataclass(frozen=True)
class _Pending:
    step: int
    terms: Mapping[str, Tensor]
    finite: Tensor
    ready: torch.cuda.Event | None


class Watch:
    """Looks at the loss and the gradient of every step.

    On a GPU the answer to a step is read when the next one has been handed to it: by then it has
    enough to do, and nothing waits. Elsewhere it is read at once.
    """

    def __init__(self, device: torch.device) -> None:
        self.late = device.type == "cuda"
        self._pending: _Pending | None = None

    def add(self, step: int, terms: Mapping[str, Tensor]) -> Failed | None:
        """Take the scalars of a step, `loss` and `gradient_norm` among them.

        Returns the step that went wrong: this one, or on a GPU the one before.
        """
        if not self.late:
            self._pending = self._begun(step, terms)
            return self.settle()
        found = self.settle()
        self._pending = None if found else self._begun(step, terms)
        return found

    def settle(self) -> Failed | None:
        """Wait for the last step and say whether it went wrong."""
        pending, self._pending = self._pending, None
        if pending is None:
            return None
        if pending.ready is not None:
            pending.ready.synchronize()
        if bool(pending.finite):
            return None
        terms = {name: float(value) for name, value in pending.terms.items()}
        return Failed(step=pending.step, terms=terms)

    def _begun(self, step: int, terms: Mapping[str, Tensor]) -> _Pending:
        finite = torch.isfinite(terms["loss"]) & torch.isfinite(terms["gradient_norm"])
        if not self.late:
            return _Pending(step, terms, finite, None)
        host = torch.empty((), dtype=torch.bool, pin_memory=True)
        host.copy_(finite, non_blocking=True)
        ready = torch.cuda.Event()
        ready.record()
        return _Pending(step, terms, host, ready)


@torch.no_grad()
def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Euclidean norm of all gradients, a scalar on their device."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    return nn.utils.get_total_norm(gradients)


def _odd(value: float) -> bool:
    return value != value or abs(value) == float("inf")
