"""Comparing nested states, such as checkpoints, to the last bit."""

from typing import Any

import torch


def flat(state: Any, path: str = "") -> dict[str, Any]:
    """Every tensor and number of a nested state by its path."""
    if isinstance(state, dict):
        state = state.items()
    elif isinstance(state, list | tuple):
        state = enumerate(state)
    else:
        return {path: state}
    return {k: v for name, item in state for k, v in flat(item, f"{path}/{name}").items()}


def assert_equal(first: Any, second: Any) -> None:
    first, second = flat(first), flat(second)
    assert first.keys() == second.keys()
    for name, value in first.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, second[name]), name
        else:
            assert value == second[name], name
