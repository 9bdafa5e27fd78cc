import json
import threading
import time
from pathlib import Path

import pytest
import results_folder as watching

from pipeline.monitor.logs import describe, show
from pipeline.store.events import EventLog
from pipeline.store.lock import RunLock
from pipeline.store.paths import record_file


def write_log(folder: Path, seconds: list[float], text: str) -> None:
    lines = [
        f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(second))}.500 {text} {second:.0f}\n"
        for second in seconds
    ]
    (folder / "log.txt").write_text("".join(lines))


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, str, Path]:
    (run_id,) = watching.plan(tmp_path, {"a": 1.0})
    folder = watching.status(
        tmp_path, run_id, "running", step=4, steps=8, loss=0.5, node="box", device="cpu"
    )
    lines = [
        {"kind": "step", "step": 2, "time": 1_000_000, "metrics": {"loss": 2.0, "deep": 1.0}},
        {"kind": "system", "step": 1, "time": 1_001_000, "metrics": {"cpu": 1.0}},
        {"kind": "eval", "step": 4, "time": 1_010_000, "metrics": {"student/miou": 12.3456}},
    ]
    (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_log(folder, [999, 1005, 1020], "said at")
    return tmp_path, run_id, folder


def test_what_was_said_and_measured_stands_in_the_order_of_time(run, capsys) -> None:
    results, run_id, _ = run
    show(results, "exp/a/0")
    head, _, body = capsys.readouterr().out.partition("\n\n")
    assert head.startswith(f"{run_id}\ninterrupted: step 4 of 8, loss 0.5, attempt 1 on box cpu")
    assert [line[24:] for line in body.splitlines()] == [
        "said at 999",
        "step 2: loss 2",
        "said at 1005",
        "evaluation at step 4: student/miou 12.35",
        "said at 1020",
    ]
    show(results, run_id, lines=2)
    body = capsys.readouterr().out.partition("\n\n")[2]
    assert [line[24:36] for line in body.splitlines()] == ["evaluation a", "said at 1020"]
    show(results, run_id, lines=0, metrics=True)
    assert "step 2: loss 2, deep 1" in capsys.readouterr().out


def test_a_failed_run_shows_its_traceback(run, capsys) -> None:
    results, run_id, folder = run
    watching.status(results, run_id, "failed", message="KeyError: 'x'")
    (folder / "error.txt").write_text("Traceback ...\nKeyError: 'x'\n")
    show(results, run_id, lines=1)
    out = capsys.readouterr().out
    assert "failed: attempt 1\nKeyError: 'x'" in out
    assert out.endswith("error.txt:\nTraceback ...\nKeyError: 'x'\n")


def test_the_state_is_what_lock_and_record_say(run) -> None:
    results, run_id, folder = run
    with RunLock(folder / "lock"):
        assert describe(results, run_id)[1].startswith("running: step 4 of 8")
    watching.finish(results, run_id)
    state = describe(results, run_id)[1]
    assert state == f"finished: record {record_file(results, run_id)}"


def test_following_ends_with_the_run(run, capsys) -> None:
    results, run_id, folder = run
    ready = threading.Event()

    def train() -> None:
        with RunLock(folder / "lock"), EventLog(folder / "events.jsonl") as events:
            ready.set()
            for step in (6, 8):
                time.sleep(0.6)
                events.append("step", step, {"loss": 1.0})
            watching.finish(results, run_id)

    thread = threading.Thread(target=train)
    thread.start()
    ready.wait()
    show(results, run_id, follow=True)
    thread.join()
    lines = capsys.readouterr().out.splitlines()
    steps = [line[24:] for line in lines if line[24:].startswith("step")]
    assert steps == ["step 2: loss 2", "step 6: loss 1", "step 8: loss 1"]
    assert lines[-1].startswith("finished: record")
