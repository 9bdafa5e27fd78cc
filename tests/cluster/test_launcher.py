import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from cluster_helpers import wait_for

WATCHER = """
import signal, sys, threading, time
from pathlib import Path
from pipeline.stages.launcher import watch_launcher
out = Path(sys.argv[1])
signal.signal(signal.SIGTERM, signal.default_int_handler)
watch_launcher(threading.Event())
try:
    (out / "started").write_text("")
    time.sleep(float(sys.argv[2]))
    (out / "undisturbed").write_text("")
except KeyboardInterrupt:
    (out / "interrupted").write_text("")
"""
LAUNCHER = """
import subprocess, sys
subprocess.run([sys.executable, "watcher.py", *sys.argv[1:]])
"""


def start_and_kill_dvc(
    folder: Path, seconds: float, environment: dict[str, str], first: str = ""
) -> None:
    (folder / "watcher.py").write_text(first + WATCHER)
    (folder / "dvc").write_text(LAUNCHER)
    dvc = subprocess.Popen(
        [sys.executable, "dvc", str(folder), str(seconds)], cwd=folder, env=environment
    )
    wait_for((folder / "started").exists)
    dvc.kill()
    dvc.wait()


def test_a_stage_ends_when_its_dvc_is_killed(tmp_path: Path) -> None:
    start_and_kill_dvc(tmp_path, 60, os.environ | {"DVC_STAGE": "train"})
    wait_for((tmp_path / "interrupted").exists, 30)


def test_a_signal_that_got_lost_is_sent_again(tmp_path: Path) -> None:
    deaf = """
import signal
from pipeline.stages import launcher
launcher._AGAIN_S = 0.5
heard = []
def handler(number, frame):
    heard.append(number)
    if len(heard) > 1:
        raise KeyboardInterrupt
signal.default_int_handler = handler
"""
    start_and_kill_dvc(tmp_path, 60, os.environ | {"DVC_STAGE": "train"}, deaf)
    wait_for((tmp_path / "interrupted").exists, 30)


def test_a_stage_whose_dvc_was_killed_before_it_looked_ends_at_once(tmp_path: Path) -> None:
    # Python and Ray take seconds to start, and dvc may be gone by then.
    late = """
import os, sys, time
from pathlib import Path
out = Path(sys.argv[1])
(out / "pid").write_text(str(os.getpid()))
while not (out / "go").exists():
    time.sleep(0.1)
"""
    (tmp_path / "watcher.py").write_text(late + WATCHER)
    (tmp_path / "dvc").write_text(LAUNCHER)
    dvc = subprocess.Popen(
        [sys.executable, "dvc", str(tmp_path), "60"],
        cwd=tmp_path,
        env=os.environ | {"DVC_STAGE": "train"},
    )
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    watcher = psutil.Process(int((tmp_path / "pid").read_text()))
    dvc.kill()
    dvc.wait()
    (tmp_path / "go").write_text("")
    watcher.wait(60)
    # SIGTERM arrives as KeyboardInterrupt before there is anything to interrupt.
    assert not (tmp_path / "started").exists()


def test_a_command_of_its_own_outlives_who_started_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DVC_STAGE", raising=False)
    start_and_kill_dvc(tmp_path, 2.5, dict(os.environ))
    wait_for((tmp_path / "undisturbed").exists, 30)
