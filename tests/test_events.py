import json
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.store.events import EventLog, read, read_from


def test_what_is_appended_is_read_in_order(tmp_path: Path):
    path = tmp_path / "run" / "events.jsonl"
    with EventLog(path) as log:
        assert log.append("step", 10, {"loss": 1.5, "lr": 1e-3})
        assert log.append("eval", 10, {"student/miou": 20.0})
        assert log.append("step", 20, {"loss": 1.25})
    events = read(path)
    assert [(e.kind, e.step, e.metrics) for e in events] == [
        ("step", 10, {"loss": 1.5, "lr": 1e-3}),
        ("eval", 10, {"student/miou": 20.0}),
        ("step", 20, {"loss": 1.25}),
    ]
    assert events[0].time <= events[1].time <= events[2].time


def test_repeated_steps_are_dropped_also_after_reopening(tmp_path: Path):
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        assert [log.append("step", step, {"loss": step}) for step in (1, 2, 3, 3, 2)] == [
            *(True, True, True),
            *(False, False),
        ]
    with EventLog(path) as log:
        assert log.last_step("step") == 3
        assert log.last_step("eval") == -1
        assert not log.append("step", 2, {"loss": 0})
        assert log.append("eval", 2, {"miou": 0})
        assert log.append("step", 4, {"loss": 4})
    assert [e.step for e in read(path) if e.kind == "step"] == [1, 2, 3, 4]


@given(cut=st.integers(1, 400))
def test_a_log_cut_anywhere_keeps_its_whole_lines_and_goes_on(tmp_path_factory, cut: int):
    path = tmp_path_factory.mktemp("cut") / "events.jsonl"
    with EventLog(path) as log:
        for step in range(1, 8):
            log.append("step", step, {"loss": step / 3})
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut] if cut < len(whole) else b"")
    left = path.read_bytes().count(b"\n")
    with EventLog(path) as log:
        assert log.last_step("step") == (left or -1)
        for step in range(max(left, 1), 9):
            log.append("step", step, {"loss": step / 3})
    assert [(e.step, e.metrics["loss"]) for e in read(path)] == [(s, s / 3) for s in range(1, 9)]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_rubbish_at_the_end_is_cut_and_rubbish_within_is_passed_over(tmp_path: Path):
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log.append("step", 1, {"loss": 1})
    first = path.read_bytes()
    with EventLog(path) as log:
        log.append("step", 2, {"loss": 2})
    second = path.read_bytes()[len(first) :]
    path.write_bytes(first + b"\0\0\0\n" + second + b"\0\0\0\n[1]\n")
    with EventLog(path) as log:
        assert log.append("step", 3, {"loss": 3})
    assert [e.step for e in read(path)] == [1, 2, 3]
    assert path.read_bytes().startswith(first + b"\0\0\0\n" + second + b'{"kind"')


def test_numbers_that_json_lacks_survive_in_valid_json(tmp_path: Path):
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log.append("step", 1, {"a": float("nan"), "b": float("inf"), "c": float("-inf")})
    assert "NaN" not in path.read_text()
    metrics = read(path)[0].metrics
    assert metrics["a"] != metrics["a"]
    assert (metrics["b"], metrics["c"]) == (float("inf"), float("-inf"))


def test_reading_from_an_offset_gives_what_follows(tmp_path: Path):
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        for step in range(1, 6):
            log.append("step", step, {"loss": step})
    pairs = list(read_from(path, 0))
    assert pairs[-1][1] == path.stat().st_size
    for i, (_, end) in enumerate(pairs):
        assert [e.step for e, _ in read_from(path, end)] == [e.step for e, _ in pairs[i + 1 :]]


def test_threads_may_share_a_log(tmp_path: Path):
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:

        def write(kind: str) -> None:
            for step in range(200):
                log.append(kind, step, {"value": step})

        threads = [threading.Thread(target=write, args=(k,)) for k in ("step", "eval", "system")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for kind in ("step", "eval", "system"):
        assert [e.step for e in read(path) if e.kind == kind] == list(range(200))


def test_wrong_kinds_and_values_are_refused(tmp_path: Path):
    with EventLog(tmp_path / "events.jsonl") as log:
        with pytest.raises(ValueError, match="kind: got 'stpe', allowed step, eval"):
            log.append("stpe", 1, {})
        with pytest.raises((ValueError, TypeError)):
            log.append("step", 1, {"loss": "high"})  # type: ignore[dict-item]
    assert read(tmp_path / "events.jsonl") == []
    assert read(tmp_path / "absent.jsonl") == []
