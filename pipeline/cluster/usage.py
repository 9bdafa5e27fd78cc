"""How well a grid used its machines: makespan against the least there could have been."""

from dataclasses import dataclass, field


@dataclass
class Usage:
    """Measured while a grid runs; times in seconds, slots are GPUs (CPU cores without GPUs)."""

    started: float | None = None
    ended: float = 0.0
    work: float = 0.0
    """Slot-seconds of all runs, those of lost attempts too."""
    longest: float = 0.0
    """Of one run, all its attempts together."""
    largest: float = 0.0
    """Most slots that there were at any time."""
    _busy: float = 0.0
    _offered: float = 0.0
    _last: tuple[float, float, float, int] | None = None
    _begun: dict[str, tuple[float, float]] = field(default_factory=dict)
    _lengths: dict[str, float] = field(default_factory=dict)

    def note(self, now: float, *, busy: float, capacity: float, waiting: int) -> None:
        """Take in how many slots are busy and how many there are, from now on."""
        if self._last is not None:
            then, was_busy, was_offered, was_waiting = self._last
            if was_waiting:
                # After the last start machines run empty, whatever is done.
                self._busy += (now - then) * was_busy
                self._offered += (now - then) * was_offered
        self.started = now if self.started is None else self.started
        self.largest = max(self.largest, capacity)
        self._last = now, busy, capacity, waiting

    def begin(self, run_id: str, now: float, slots: float) -> None:
        """A run starts on `slots`."""
        self._begun[run_id] = now, slots

    def end(self, run_id: str, now: float) -> float:
        """It ended, however it did; how long it took."""
        begun, slots = self._begun.pop(run_id)
        self.work += (now - begun) * slots
        self._lengths[run_id] = self._lengths.get(run_id, 0.0) + now - begun
        self.longest = max(self.longest, self._lengths[run_id])
        self.ended = max(self.ended, now)
        return now - begun

    @property
    def makespan(self) -> float:
        """From the first start to the last end."""
        return max(0.0, self.ended - self.started) if self.started is not None else 0.0

    @property
    def lower_bound(self) -> float:
        """What no order can beat: the work spread over all slots, or the longest run."""
        return max(self.work / self.largest if self.largest else 0.0, self.longest)

    @property
    def utilisation(self) -> float | None:
        """Share of the slots' time that was used while runs were waiting; None if none waited."""
        return self._busy / self._offered if self._offered else None
