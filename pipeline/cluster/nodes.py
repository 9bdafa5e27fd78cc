"""The machines of the connected Ray cluster, and what others use of them."""

from collections.abc import Iterable

import ray
from ray._private import state

from pipeline.cluster.resources import Node, live_nodes
from pipeline.cluster.scheduler import Placement

_LOOKS = 3

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
        if len(self._looks) < _LOOKS:
            return {}
        found: Use = {}
        for node_id in look:
            uses = [each.get(node_id, (0.0, 0.0)) for each in self._looks]
            found[node_id] = min(cpus for cpus, _ in uses), min(gpus for _, gpus in uses)
        return found
