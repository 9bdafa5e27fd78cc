"""`ecocseg doctor`: what this machine and the cluster have and lack, each line with its remedy."""

from collections.abc import Callable, Iterator

from pipeline.config.params import Params
from pipeline.doctor import cluster, data, machine, services
from pipeline.doctor.finding import FAULT, OK, WARNING, Finding, print_lines, to_json

__all__ = ["FAULT", "OK", "WARNING", "Finding", "examine", "findings"]

_CHECKS: tuple[Callable[[Params], Iterator[Finding]], ...] = (
    machine.python,
    machine.packages,
    machine.gpus,
    machine.memory,
    machine.disks,
    services.dvc,
    services.tracking,
    services.storage,
    data.datasets,
    data.plan,
    services.token,
    cluster.nodes,
)


def examine(params: Params, *, as_json: bool = False) -> int:
    """Print every finding; 1 when one of them is a fault, else 0."""
    if as_json:
        found = list(findings(params))
        print(to_json(found))
    else:
        found = print_lines(findings(params))
        counts = {state: sum(f.state == state for f in found) for state in (FAULT, WARNING)}
        words = [f"{n} {state}{'s' * (n > 1)}" for state, n in counts.items() if n]
        print(", ".join(words) if words else "all is well")
    return int(any(finding.state == FAULT for finding in found))


def findings(params: Params) -> Iterator[Finding]:
    """All checks in turn, each finding as soon as it is known."""
    for check in _CHECKS:
        yield from check(params)
