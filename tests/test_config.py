from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from ecocseg.config import from_mapping, require, unknown
from ecocseg.errors import ConfigError, UserError


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.1

    def __post_init__(self) -> None:
        require(self.rate > 0, "rate", self.rate, "above 0")


@dataclass(frozen=True, kw_only=True)
class Outer:
    count: int
    name: str = "x"
    kind: Literal["whole", "slide"] = "whole"
    stride: Literal[8, 16] | None = None
    size: tuple[int, int] | None = None
    values: tuple[float, ...] = ()
    flag: bool = False
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    anything: Any = None


def test_values_are_taken_and_converted():
    got = from_mapping(
        Outer,
        {
            "count": 3,
            "stride": 8,
            "size": [4, 5],
            "values": [1, "6e-5"],
            "flag": True,
            "inner": {"rate": 2},
            "maybe": {"rate": "1e-3"},
            "anything": {"x": [1]},
        },
        "outer",
    )
    assert got == Outer(
        count=3,
        stride=8,
        size=(4, 5),
        values=(1.0, 6e-5),
        flag=True,
        inner=Inner(rate=2.0),
        maybe=Inner(rate=1e-3),
        anything={"x": [1]},
    )
    assert isinstance(got.inner.rate, float)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"count": 1, "nmae": "y"}, ["outer.nmae", "did you mean 'name'", "allowed"]),
        ({}, ["outer", "'count' is missing"]),
        ({"count": 1.5}, ["outer.count", "1.5", "whole number"]),
        ({"count": True}, ["outer.count", "True", "whole number"]),
        ({"count": "3"}, ["outer.count", "'3'", "whole number"]),
        ({"count": 1, "name": 3}, ["outer.name", "3", "a text"]),
        ({"count": 1, "flag": 1}, ["outer.flag", "true or false"]),
        ({"count": 1, "kind": "slid"}, ["outer.kind", "did you mean 'slide'"]),
        ({"count": 1, "stride": 4}, ["outer.stride", "4", "8", "16", "null"]),
        ({"count": 1, "size": [4]}, ["outer.size", "[4]", "2 values or null"]),
        ({"count": 1, "values": [1, "a"]}, ["outer.values", "'a'", "a number"]),
        ({"count": 1, "inner": {"rate": 0}}, ["outer.inner.rate: got 0.0", "above 0"]),
        ({"count": 1, "maybe": {"rat": 1}}, ["outer.maybe.rat", "did you mean 'rate'"]),
        ({"count": 1, "maybe": {"rate": -1}}, ["outer.maybe.rate: got -1.0", "above 0"]),
        ({"count": 1, "inner": None}, ["outer.inner", "None", "mapping"]),
        ([1], ["outer", "[1]", "mapping"]),
    ],
)
def test_a_wrong_value_is_named_with_its_path_and_what_is_allowed(values, words):
    with pytest.raises(ConfigError) as caught:
        from_mapping(Outer, values, "outer")
    for word in words:
        assert word in str(caught.value)


def test_a_plain_value_error_of_the_class_gets_the_path():
    @dataclass(frozen=True, kw_only=True)
    class Plain:
        a: int = 0

        def __post_init__(self) -> None:
            raise ValueError("a is never right")

    with pytest.raises(ConfigError, match=r"^outer: a is never right$"):
        from_mapping(Plain, {}, "outer")


def test_errors_are_the_users_and_value_errors():
    assert issubclass(ConfigError, UserError)
    assert issubclass(ConfigError, ValueError)
    assert "did you mean" not in unknown("method", "method", "zzz", ["dacs"])
