"""A training run as tracking sees it, in a process of its own so that it can be killed.

Arguments: results folder, run id, first step, last step, seconds per step, store address or "-".
"""

import sys
import time
from pathlib import Path

from pipeline.tracking import RunTracker, TrackingConfig

folder, run_id, first, last, pause, uri = sys.argv[1:]
config = TrackingConfig(
    folder=f"{folder}/mlflow", uri=None if uri == "-" else uri, system_every_s=0.2
)
tags = {"cell": "killed", "seed": "1"}
run_dir = Path(folder) / "runs" / run_id
with RunTracker(config, run_dir, run_id, "kills", tags, {"lr": 0.5, "steps": 400}) as tracker:
    for step in range(int(first), int(last) + 1):
        tracker.events.append("step", step, {"loss": 1 / step, "loss/source": 2 / step})
        if step % 20 == 0:
            tracker.events.append("eval", step, {"student/miou": step / 10})
        tracker.sync()
        time.sleep(float(pause))
    delivered = tracker.finish(wait_s=60)
sys.exit(0 if delivered else 3)
