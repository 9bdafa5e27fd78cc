"""What tracking shows of a run that is scored by Dice over volumes."""

from pathlib import Path

import pytest
from tracking_support import make_record

from pipeline.store.events import EventLog, read
from pipeline.tracking.spool import spool_record


def test_the_protocols_score_is_tracked_under_its_name(tmp_path: Path):
    record = make_record()
    record["protocol"] |= {"score": "dice", "per": "folder", "classes": ["traffic light"]}
    for result in record["results"].values():
        # Two volumes; the second one has one road pixel, missed, and one of the light.
        second = [[0, 1, 0], [0, 1, 0], [0, 0, 0]]
        result["student"]["confusion"] = [[[8, 2, 0], [1, 9, 0], [0, 0, 0]], second]
        result["teacher"] = None
    log = EventLog(tmp_path / "events.jsonl")
    spool_record(tmp_path, log, record)
    log.flush()
    (event,) = read(tmp_path / "events.jsonl")
    light = 100 * (18 / 21 + 2 / 3) / 2
    assert event.metrics == pytest.approx(
        {
            "dice/road": 100 * (16 / 19 + 0) / 2,
            "dice/traffic light": light,
            "final/mdice_last_student": light,
            "final/mdice_best_student": light,
            "final/best_step": 200,
        }
    )
