"""The search space as users write it in YAML, checked before a machine is taken.

An entry is `{type: uniform|loguniform|int|choice, low, high | values}`, with `step` (uniform, int)
or `log` (int) as wanted, and `when: {other.field: value or [values]}` where it only has a meaning
for some values of another entry, which is a choice or an int.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from ecocseg.config import unknown
from ecocseg.errors import ConfigError

# Fields that each kind needs, and those it may have.
_FIELDS: dict[str, tuple[set[str], set[str]]] = {
    "uniform": ({"low", "high"}, {"step"}),
    "loguniform": ({"low", "high"}, set()),
    "int": ({"low", "high"}, {"step", "log"}),
    "choice": ({"values"}, set()),
}
_DIGITS = 4


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One searched field; it has a value only where every entry of `when` has one of those."""

    name: str
    distribution: BaseDistribution
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def values(self) -> Sequence[Any] | None:
        """Every value there is, in order; None where they are without number."""
        found = self.distribution
        if isinstance(found, CategoricalDistribution):
            return list(found.choices)
        if isinstance(found, IntDistribution):
            return range(found.low, found.high + 1, found.step)
        if isinstance(found, FloatDistribution) and found.step is not None:
            count = round((found.high - found.low) / found.step)
            return [plain_value(found.low + i * found.step) for i in range(count + 1)]
        return None

    def ends(self) -> list[Any]:
        """The values of a choice, else both ends of the range."""
        found = self.distribution
        if isinstance(found, CategoricalDistribution):
            return list(found.choices)
        assert isinstance(found, FloatDistribution | IntDistribution)
        return [found.low, found.high]

    def holds(self, value: Any) -> bool:
        """Whether the entry can have this value."""
        found = self.distribution
        if isinstance(found, CategoricalDistribution):
            return any(value == one and type(value) is type(one) for one in found.choices)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if isinstance(found, IntDistribution) and value != int(value):
            return False
        return found._contains(found.to_internal_repr(value))

    def read(self, text: str) -> Any:
        """The value that a table shows as `text`; None when the entry can have no such value."""
        found = self.distribution
        if isinstance(found, CategoricalDistribution):
            return next((one for one in found.choices if shown(one) == text), None)
        try:
            value = int(text) if isinstance(found, IntDistribution) else float(text)
        except ValueError:
            return None
        return value if self.holds(value) else None

    def suggest(self, trial: optuna.Trial) -> Any:
        """A value of the trial's sampler, as it is used."""
        found = self.distribution
        if isinstance(found, CategoricalDistribution):
            return trial.suggest_categorical(self.name, found.choices)
        if isinstance(found, IntDistribution):
            return trial.suggest_int(
                self.name, found.low, found.high, step=found.step, log=found.log
            )
        assert isinstance(found, FloatDistribution)
        value = trial.suggest_float(
            self.name, found.low, found.high, step=found.step, log=found.log
        )
        # Rounding may step over an end that has more digits itself.
        return min(max(plain_value(value), found.low), found.high)


class Space:
    """All entries, each after those on which it depends."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = tuple(entries)
        self.names = [entry.name for entry in entries]

    @property
    def finite(self) -> bool:
        """Whether there are so many points and no more."""
        return all(entry.values() is not None for entry in self.entries)

    def active(self, values: Mapping[str, Any]) -> Iterator[Entry]:
        """The entries that have a value in a point of these values; asked in order while filled."""
        for entry in self.entries:
            conditions = entry.when.items()
            if all(name in values and values[name] in allowed for name, allowed in conditions):
                yield entry

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """A point: the active entries, each conditional one after what it depends on."""
        values: dict[str, Any] = {}
        for entry in self.active(values):
            values[entry.name] = entry.suggest(trial)
        return values

    def grid(self) -> list[dict[str, Any]]:
        """Every point, the last entry changing fastest, without inactive entries.

        Raises ConfigError when an entry has values without number.
        """
        points: list[dict[str, Any]] = [{}]
        for entry in self.entries:
            values = entry.values()
            if values is None:
                raise ConfigError(
                    f"space.{entry.name}: a grid cannot walk through a whole range; write "
                    "{type: choice, values: [...]}, or give a uniform or int a step"
                )
            expanded: list[dict[str, Any]] = []
            for point in points:
                active = any(one is entry for one in self.active(point))
                expanded += [{**point, entry.name: v} for v in values] if active else [point]
            points = expanded
        return points

    def corners(self) -> Iterator[dict[str, Any]]:
        """Points that between them have every end of every entry, with what it depends on."""
        for entry in self.entries:
            parents = self._parents(entry)
            for value, *choice in itertools.product(entry.ends(), *parents.values()):
                yield {**dict(zip(parents, choice, strict=True)), entry.name: value}

    def extreme(self, place: int) -> dict[str, Any]:
        """The point with the end at `place` (0 first, -1 last) of every active entry."""
        values: dict[str, Any] = {}
        for entry in self.active(values):
            values[entry.name] = entry.ends()[place]
        return values

    def why_not(self, values: Mapping[str, Any]) -> str | None:
        """Why a point is none of this space; None when it is one."""
        active = {entry.name: entry for entry in self.active(values)}
        for name, entry in active.items():
            if name not in values:
                return f"{name} has no value"
            if not entry.holds(values[name]):
                return f"{name} = {values[name]!r} is outside the space"
        extra = sorted(set(values) - set(active))
        return f"{extra[0]} has a value where it has no meaning" if extra else None

    def distributions(self, values: Mapping[str, Any]) -> dict[str, BaseDistribution]:
        """Those of the entries that a point has."""
        return {entry.name: entry.distribution for entry in self.entries if entry.name in values}

    def _parents(self, entry: Entry) -> dict[str, tuple[Any, ...]]:
        """All that the entry depends on, directly or not, with one allowed value of each."""
        found: dict[str, tuple[Any, ...]] = {}
        by_name = {one.name: one for one in self.entries}
        for name, allowed in entry.when.items():
            found |= self._parents(by_name[name]) | {name: allowed[:1]}
        return found


def parse_space(space: Mapping[str, Any]) -> Space:
    """The space of a YAML file's content.

    Raises ConfigError with the entry's name for whatever is unknown, missing or out of range.
    """
    if not space:
        raise ConfigError("space: got no parameters; name at least one, with type, low and high")
    entries = {name: _parse(name, entry) for name, entry in space.items()}
    for entry in entries.values():
        _check_when(entry, entries)
    ordered: dict[str, Entry] = {}
    while len(ordered) < len(entries):
        ready = [e for n, e in entries.items() if n not in ordered and set(e.when) <= set(ordered)]
        if not ready:
            circle = next(name for name in entries if name not in ordered)
            raise ConfigError(f"space.{circle}.when: depends on itself through other entries")
        ordered |= {entry.name: entry for entry in ready[:1]}
    return Space(list(ordered.values()))


def shown(value: Any) -> str:
    """A value as overrides and tables show it: YAML's words for what Python spells otherwise."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def plain_value(value: Any) -> Any:
    """A value as it is used, written and shown alike: floats carry four significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    return value


def _parse(name: str, entry: Any) -> Entry:
    kind = entry.get("type") if isinstance(entry, Mapping) else None
    if kind not in _FIELDS:
        raise ConfigError(f"space.{name}.type: got {kind!r}, allowed {', '.join(_FIELDS)}")
    needed, optional = _FIELDS[kind]
    given = set(entry) - {"type", "when"}
    if not needed <= given <= needed | optional:
        also = f" and may have {', '.join(sorted(optional))}" if optional else ""
        raise ConfigError(
            f"space.{name}: got the fields {sorted(given)}, a {kind} takes {sorted(needed)}{also}"
        )
    return Entry(
        name=name,
        distribution=_choice(name, entry["values"]) if kind == "choice" else _range(name, entry),
        when=_when(name, entry.get("when", {})),
    )


def _choice(name: str, values: Any) -> BaseDistribution:
    if not isinstance(values, list) or not values:
        raise ConfigError(f"space.{name}.values: got {values!r}, allowed a list with entries")
    for value in values:
        if value is not None and not isinstance(value, bool | int | float | str):
            raise ConfigError(f"space.{name}.values: got {value!r}, allowed numbers and texts")
    if len({(type(value), value) for value in values}) < len(values):
        raise ConfigError(f"space.{name}.values: got {values!r}, allowed each value once")
    return CategoricalDistribution(values)


def _range(name: str, entry: Mapping[str, Any]) -> BaseDistribution:
    kind = entry["type"]
    low, high = _number(name, "low", entry, kind), _number(name, "high", entry, kind)
    if low >= high:
        raise ConfigError(f"space.{name}: got low {low:g} and high {high:g}, low must be smaller")
    log = entry.get("log", kind == "loguniform")
    if not isinstance(log, bool):
        raise ConfigError(f"space.{name}.log: got {log!r}, allowed true or false")
    if log and low <= 0:
        raise ConfigError(f"space.{name}.low: got {low:g}, a logarithmic range needs more than 0")
    if "step" not in entry:
        if kind == "int":
            return IntDistribution(int(low), int(high), log=log)
        return FloatDistribution(low, high, log=log)
    step = _number(name, "step", entry, kind)
    if log:
        raise ConfigError(f"space.{name}: got step and log, allowed one of them")
    # Less than a millionth of a step is the machine's way with decimal fractions.
    if step <= 0 or abs((high - low) / step - round((high - low) / step)) > 1e-6:
        raise ConfigError(
            f"space.{name}.step: got {step:g}, allowed a step above 0 that leads from {low:g} "
            f"to {high:g}"
        )
    if kind == "int":
        return IntDistribution(int(low), int(high), step=int(step))
    return FloatDistribution(low, high, step=step)


def _when(name: str, when: Any) -> dict[str, tuple[Any, ...]]:
    if not isinstance(when, Mapping):
        raise ConfigError(
            f"space.{name}.when: got {when!r}, allowed {{other.field: value or [values]}}"
        )
    found = {other: tuple(v) if isinstance(v, list) else (v,) for other, v in when.items()}
    if not all(found.values()):
        raise ConfigError(f"space.{name}.when: got no values, allowed one or more")
    return found


def _check_when(entry: Entry, entries: Mapping[str, Entry]) -> None:
    for other, allowed in entry.when.items():
        where = f"space.{entry.name}.when"
        if other not in entries or other == entry.name:
            others = [name for name in entries if name != entry.name]
            raise ConfigError(unknown(where, "entry", other, others))
        if entries[other].values() is None:
            raise ConfigError(f"{where}: {other} has a whole range; allowed a choice or an int")
        for value in allowed:
            if not entries[other].holds(value):
                raise ConfigError(f"{where}.{other}: got {value!r}, which {other} never has")


def _number(name: str, field: str, entry: Mapping[str, Any], kind: str) -> float:
    value = entry[field]
    allowed = int if kind == "int" else (int, float)
    if isinstance(value, bool) or not isinstance(value, allowed) or not math.isfinite(value):
        what = "a whole number" if kind == "int" else "a finite number (write 1.0e-3, not 1e-3)"
        raise ConfigError(f"space.{name}.{field}: got {value!r}, allowed {what}")
    return value
