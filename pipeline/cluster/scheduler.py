"""Which run starts where: decided here, carried out by Ray (or by the simulator in benchmarks/).

The longest run starts first, so that the last one does not stretch the grid. When the longest
waiting run finds no room, the node that is nearest to having it is kept free for it and the others
are filled meanwhile; without that a run on two GPUs would wait for the end of all runs on one.
"""

import heapq
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.cluster.resources import (
    Node,
    Resources,
    cpus_on,
    impossible,
    room_for,
    share_of_gpu,
    suits,
)

_ROUND = 1e-9


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one process of a run holds of a node; `cards` are the indices of its GPUs there."""

    node_id: str
    cpus: float
    memory_mb: float
    share: float
    """Of each of its cards."""
    cards: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A run and the place of each of its processes."""

    run_id: str
    asked: Resources
    parts: tuple[Part, ...]

    @property
    def each(self) -> Resources:
        """What every process is given: of cores no more than the scarcest of its nodes has."""
        share = max(part.share * len(part.cards) for part in self.parts)
        cpus = min(part.cpus for part in self.parts)
        return replace(self.asked, cpus=cpus, gpus=share, runs_per_gpu=1)

    @property
    def slots(self) -> float:
        """GPUs that it holds, or CPU cores where it holds none."""
        gpus = sum(part.share * len(part.cards) for part in self.parts)
        return gpus or sum(part.cpus for part in self.parts)


@dataclass
class _Space:
    """What is left of a node."""

    node: Node
    cpus: float
    memory_mb: float
    cards: list[float]
    """Free share of each GPU."""

    @classmethod
    def of(cls, node: Node) -> "_Space":
        return cls(node, node.cpus, node.memory_mb, [1.0] * node.gpus)

    def part(self, asked: Resources, other_cpus: float, other_gpus: float) -> Part | None:
        """The place for one process, None where there is none now."""
        node = self.node
        cpus, memory = cpus_on(asked, node), float(asked.memory_mb or 0)
        if self.cpus - other_cpus + _ROUND < cpus or self.memory_mb + _ROUND < memory:
            return None
        cards: tuple[int, ...] = ()
        share = share_of_gpu(asked, node)
        if asked.gpus:
            count = max(1, int(asked.gpus))
            share = min(share, 1.0)
            # The fullest card that has room: the others stay whole for those who need a whole one.
            free = sorted(
                (left, index) for index, left in enumerate(self.cards) if left + _ROUND >= share
            )
            # Who else is on the machine has cards that this grid holds nothing of.
            idle = [entry for entry in free if entry[0] == 1.0]
            gone = idle[: math.ceil(min(other_gpus, len(idle)) - _ROUND)]
            free = [entry for entry in free if entry not in gone]
            if len(free) < count:
                return None
            cards = tuple(index for _, index in free[:count])
        return Part(node_id=node.id, cpus=cpus, memory_mb=memory, share=share, cards=cards)

    def take(self, part: Part, sign: int = 1) -> None:
        self.cpus -= sign * part.cpus
        self.memory_mb -= sign * part.memory_mb
        for index in part.cards:
            left = self.cards[index] - sign * part.share
            # Thirds do not add up to one.
            self.cards[index] = 1.0 if left > 1 - 1e-6 else left


@dataclass(order=True)
class _Waiting:
    rank: float
    order: int
    run_id: str = field(compare=False)


class Scheduler:
    """The waiting and the placed runs of a grid, and what is free of each node."""

    def __init__(self) -> None:
        self.running: dict[str, Placement] = {}
        self._asked: dict[str, Resources] = {}
        self._rank: dict[str, float] = {}
        # Runs that ask for the same wait in one queue: what does not fit is looked at once.
        self._queues: dict[Resources, list[_Waiting]] = {}
        self._spaces: dict[str, _Space] = {}
        self._suited: dict[Resources, list[_Space]] = {}
        # How much a node is wanted by those who have few others, and for which queues that holds.
        self._wanted: dict[str, float] = {}
        self._wanted_by: frozenset[Resources] = frozenset()
        self._others: Mapping[str, tuple[float, float]] = {}
        self._count = 0

    @property
    def waiting(self) -> int:
        """How many runs wait for a place."""
        return sum(map(len, self._queues.values()))

    @property
    def nodes(self) -> list[Node]:
        """The live nodes."""
        return [space.node for space in self._spaces.values()]

    def add(self, run_id: str, asked: Resources, cost: float = 0.0) -> None:
        """Queue a run; `cost` in any unit, the processes of a run share it."""
        self._asked[run_id] = asked
        self._rank[run_id] = -cost / asked.processes
        self.requeue(run_id)

    def requeue(self, run_id: str) -> None:
        """Queue a run again after it lost its place; it keeps its rank."""
        self._count += 1
        queue = self._queues.setdefault(self._asked[run_id], [])
        heapq.heappush(queue, _Waiting(self._rank[run_id], self._count, run_id))

    def drop(self, run_ids: Collection[str]) -> None:
        """Take waiting runs out of their queues."""
        for queue in self._queues.values():
            queue[:] = [entry for entry in queue if entry.run_id not in run_ids]
            heapq.heapify(queue)

    def update(
        self, nodes: Iterable[Node], others: Mapping[str, tuple[float, float]] | None = None
    ) -> None:
        """Take in which nodes live now, and the cores and GPUs that others hold on them.

        What ran on a node that is gone is still placed until `release` is called for it.
        """
        live = {node.id: node for node in nodes}
        if live.keys() != self._spaces.keys():
            for node_id in self._spaces.keys() - live.keys():
                del self._spaces[node_id]
            for node_id in live.keys() - self._spaces.keys():
                self._spaces[node_id] = _Space.of(live[node_id])
            self._suited.clear()
            self._wanted_by = frozenset()
        self._others = others or {}

    def impossible(self) -> dict[str, str]:
        """The waiting runs that no live node can take even when idle, each with the reason."""
        nodes = self.nodes
        found: dict[str, str] = {}
        for asked, queue in self._queues.items():
            if queue and (reason := impossible(asked, nodes)):
                found |= {entry.run_id: reason for entry in queue}
        return found

    def place(self) -> list[Placement]:
        """Give places to as many waiting runs as there are places for now."""
        self._note_wants()
        placed = []
        kept_free: set[str] | None = None
        full: set[Resources] = set()
        while heads := [
            (queue[0], asked)
            for asked, queue in self._queues.items()
            if queue and asked not in full
        ]:
            head, asked = min(heads, key=lambda entry: entry[0])
            parts = self._parts(asked, kept_free or set())
            if parts is None:
                full.add(asked)
                if kept_free is None:
                    kept_free = self._nearest(asked)
                continue
            heapq.heappop(self._queues[asked])
            placement = Placement(run_id=head.run_id, asked=asked, parts=parts)
            self.running[head.run_id] = placement
            placed.append(placement)
        return placed

    def release(self, run_id: str) -> Placement:
        """Free the places of a run that has ended, however it did; where they were."""
        placement = self.running.pop(run_id)
        for part in placement.parts:
            if part.node_id in self._spaces:
                self._spaces[part.node_id].take(part, sign=-1)
        return placement

    def capacity(self) -> float:
        """GPUs of the nodes that the queued and placed runs suit, or cores where none asks GPUs."""
        asks = {entry for entry, queue in self._queues.items() if queue}
        asks |= {placement.asked for placement in self.running.values()}
        with_gpu = any(asked.gpus for asked in asks)
        nodes = [node for node in self.nodes if any(suits(asked, node) for asked in asks)]
        return float(sum(node.gpus if with_gpu else node.cpus for node in nodes))

    def _parts(self, asked: Resources, kept_free: set[str]) -> tuple[Part, ...] | None:
        """Places for all processes of a run, taken; on one node, else over as few as can be."""
        spaces = [space for space in self._able(asked) if space.node.id not in kept_free]
        if asked.processes == 1:
            best = self._best(asked, spaces)
            return self._fill(asked, [best] if best else [])
        for space in spaces:
            if room_for(asked, space.node) >= asked.processes and (
                parts := self._fill(asked, [space])
            ):
                return parts
        # Over several machines only where no machine alone could ever take it: every step's
        # gradients then go through the network.
        if any(room_for(asked, node) >= asked.processes for node in self.nodes):
            return None
        return self._fill(asked, sorted(spaces, key=lambda space: -sum(space.cards)))

    def _able(self, asked: Resources) -> list[_Space]:
        """The nodes that could take one process when idle."""
        if asked not in self._suited:
            spaces = list(self._spaces.values())
            self._suited[asked] = [space for space in spaces if suits(asked, space.node)]
        return self._suited[asked]

    def _note_wants(self) -> None:
        asks = frozenset(asked for asked, queue in self._queues.items() if queue)
        if asks == self._wanted_by:
            return
        self._wanted_by, self._wanted = asks, {}
        for asked in asks:
            able = self._able(asked)
            for space in able:
                wanted = self._wanted.get(space.node.id, 0.0)
                self._wanted[space.node.id] = wanted + 1 / len(able)

    def _best(self, asked: Resources, spaces: Sequence[_Space]) -> _Space | None:
        """The node for a run of one process: the least that will do, then the least wanted."""
        best, best_key = None, (math.inf, math.inf, math.inf, math.inf)
        for space in spaces:
            node = space.node
            if space.cpus <= 0 or self._free(asked, space) is None:
                continue
            gpus = 0.0 if asked.gpus else float(node.gpus)
            card = node.gpu_memory_gb or 0.0 if asked.gpus else 0.0
            key = gpus, card, self._wanted.get(node.id, 0.0), -space.cpus
            if key < best_key:
                best, best_key = space, key
        return best

    def _free(self, asked: Resources, space: _Space) -> Part | None:
        cpus, gpus = self._others.get(space.node.id, (0.0, 0.0))
        return space.part(asked, cpus, gpus)

    def _fill(self, asked: Resources, spaces: Sequence[_Space]) -> tuple[Part, ...] | None:
        """Take places for all processes on `spaces`, or none."""
        parts: list[Part] = []
        for space in spaces:
            while len(parts) < asked.processes and (part := self._free(asked, space)):
                space.take(part)
                parts.append(part)
        if len(parts) == asked.processes:
            return tuple(parts)
        for part in parts:
            self._spaces[part.node_id].take(part, sign=-1)
        return None

    def _nearest(self, asked: Resources) -> set[str]:
        """The nodes to keep free for a run: one that could take it, or as few as together could.

        Those with most free first.
        """
        nearest = sorted(self._able(asked), key=lambda space: -self._left(asked, space))
        for space in nearest:
            if room_for(asked, space.node) >= asked.processes:
                return {space.node.id}
        kept: set[str] = set()
        room = 0
        for space in nearest:
            kept.add(space.node.id)
            room += room_for(asked, space.node)
            if room >= asked.processes:
                return kept
        return set()

    def _left(self, asked: Resources, space: _Space) -> float:
        cpus, gpus = self._others.get(space.node.id, (0.0, 0.0))
        return sum(space.cards) - gpus if asked.gpus else space.cpus - cpus
