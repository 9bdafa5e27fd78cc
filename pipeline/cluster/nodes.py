"""The machines of the connected Ray cluster, and what others use of them."""

from collections.abc import Iterable

import ray
from ray._private import state

from pipeline.cluster.resources import Node, live_nodes
from pipeline.cluster.scheduler import Placement

_LOOKS = 3
_QUICK_S, _IN_A_ROW, _SHUN_S = 60.0, 3, 600.0

Use = dict[str, tuple[float, float]]
"""Cores and GPUs in use on each node, by its id."""


class NodeWatch:
    """Looks at the cluster now and then, and tells our own use of it from that of others."""

    def __init__(self) -> None:
        self._looks: list[Use] = []

    def nodes(self) -> list[Node]:
        """The live nodes."""
        return live_nodes(ray.nodes())

    def others(self, placements: Iterable[Placement]) -> Use:
        """What is in use beside the `placements`.

        Ray's figures lag by moments: what ended just now still counts there. So only what was in
        use at several looks in a row is somebody else's.
        """
        ours: Use = {}
        for placement in placements:
            for part in placement.parts:
                cpus, gpus = ours.get(part.node_id, (0.0, 0.0))
                ours[part.node_id] = cpus + part.cpus, gpus + part.share * len(part.cards)
        total, free = state.total_resources_per_node(), state.available_resources_per_node()
        look: Use = {}
        for node_id in total.keys() & free.keys():
            cpus, gpus = (
                total[node_id].get(name, 0.0) - free[node_id].get(name, 0.0) - mine
                for name, mine in zip(("CPU", "GPU"), ours.get(node_id, (0.0, 0.0)), strict=True)
            )
            look[node_id] = max(0.0, cpus), max(0.0, gpus)
        self._looks = [*self._looks[1 - _LOOKS :], look]
        found: Use = {}
        for node_id in look:
            uses = [each.get(node_id, (0.0, 0.0)) for each in self._looks]
            found[node_id] = min(cpus for cpus, _ in uses), min(gpus for _, gpus in uses)
        return found


class NodeHealth:
    """Tells a machine that fails whatever it is given from runs that fail anywhere.

    A card that fell off the bus or a driver that no longer fits ends every run in seconds, so that
    the machine is always free and would be given all the rest.
    """

    def __init__(self) -> None:
        self.notice = ""
        self._quick: dict[str, int] = {}
        self._good: set[str] = set()
        self._until: dict[str, float] = {}

    def finished(self, node_ids: Iterable[str]) -> None:
        """A run finished on them."""
        for node_id in node_ids:
            self._good.add(node_id)
            self._quick[node_id] = 0

    def failed(self, node_ids: Iterable[str], seconds: float, now: float) -> None:
        """A run failed on them `seconds` after its start."""
        for node_id in node_ids:
            self._quick[node_id] = self._quick.get(node_id, 0) + 1 if seconds < _QUICK_S else 0
            if self._quick[node_id] >= _IN_A_ROW:
                self._until[node_id] = now + _SHUN_S

    def suspects(self, nodes: Iterable[Node], now: float) -> set[str]:
        """Nodes to leave alone for a while: all fails there, and elsewhere runs have finished."""
        names = {node.id: node.name for node in nodes}
        found = {
            node_id
            for node_id, until in self._until.items()
            if until > now and node_id in names and (self._good & names.keys()) - {node_id}
        }
        listed = ", ".join(sorted(names[node_id] for node_id in found))
        self.notice = (
            f"{listed} gets no runs for {_SHUN_S / 60:.0f} min: {_IN_A_ROW} in a row failed there "
            "at once, and others finish elsewhere"
            if found
            else ""
        )
        return found
