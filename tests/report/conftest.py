"""Made-up plans and records in the real schema: small enough to read, real enough to draw."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.store.record import write_record

# fmt: off
CITYSCAPES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
    "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
    "motorcycle", "bicycle",
)
# fmt: on


def confusion(
    seed: int, quality: float, classes: Sequence[str], absent: Sequence[str] = ()
) -> list[list[int]]:
    """A confusion matrix whose classes have street-like shares and are right about `quality`."""
    draw = np.random.default_rng(seed)
    size = len(classes)
    pixels = (2_000_000 / np.arange(1, size + 1) ** 1.5).astype(int)
    hit = np.clip(quality + 0.25 * (pixels / pixels.max() - 0.3) + draw.normal(0, 0.02, size), 0, 1)
    matrix = np.zeros((size, size), dtype=int)
    for i, name in enumerate(classes):
        if name not in absent:
            wrong = draw.dirichlet(
                np.r_[np.full(size - len(absent), 0.3), np.zeros(len(absent))] + 0
            )
            row = np.round(pixels[i] * (1 - hit[i]) * wrong).astype(int)
            row[i] += int(pixels[i] * hit[i])
            matrix[i] = row
    return matrix.tolist()


def record(
    run_id: str,
    *,
    experiment: str = "streets_uda",
    cell: str = "dacs_ecoc",
    seed: int = 0,
    classes: Sequence[str] = CITYSCAPES,
    matrix: Any = None,
    quality: float = 0.5,
    ecoc: bool = False,
    **changes: Any,
) -> dict[str, Any]:
    """A record of one run; `changes` replace whole fields."""
    matrix = confusion(seed + 17, quality, classes) if matrix is None else matrix
    draw = np.random.default_rng([seed, int(quality * 1000)])
    steps = np.arange(20, 301, 20)
    rise = 1 - np.exp(-steps / 90)
    train = [
        {"step": int(s), "loss": 2 - float(r), "lr": 6e-5}
        | (
            {"quality": (0.9 if ecoc else 0.8) * float(r)}
            if "dacs" in cell or "fix" in cell
            else {}
        )
        | (
            {
                "difference": 4 * (1 - float(r)) + float(draw.uniform(0, 0.2)),
                "correction": 1.5 * (1 - float(r)),
                "mask_share": 0.4 + 0.5 * float(r),
            }
            if ecoc
            else {}
        )
        for s, r in zip(steps, rise, strict=True)
    ]
    evaluations = [
        {
            "step": int(s),
            "student/miou": 100 * quality * float(r) + float(draw.normal(0, 0.6)),
            "teacher/miou": 100 * quality * float(r) ** 2,
        }
        for s, r in zip(steps[4::5], rise[4::5], strict=True)
    ]
    result = {"step": 300, "student": {"confusion": matrix}, "teacher": {"confusion": matrix}}
    made: dict[str, Any] = {
        "schema": 1,
        "run_id": run_id,
        "experiment": experiment,
        "cell": cell,
        "seed": seed,
        "spec": {"steps": 300},
        "classes": list(classes),
        "protocol": {
            "dataset": "streets_camera",
            "split": "val",
            "images": 60,
            "mode": "whole",
            "image_size": [96, 192],
            "label_size": "original",
            "fingerprint": "5f0c2d9b7e1a44c3",
        },
        "results": {"last": result, "best": {**result, "step": 200}},
        "curves": {"train": train, "eval": evaluations},
        "data": {"streets_game": "a1b2c3d4e5f60718", "streets_camera": "5f0c2d9b7e1a44c3"},
        "environment": {
            "git": "0123abc",
            "versions": {"torch": "2.15.0", "ray": "2.60.0"},
            "host": "node-1",
            "device": "cpu",
            "device_name": "x86_64",
        },
        "timing": {"seconds": 41.5, "steps_per_second": 7.2, "peak_memory_mb": 812, "attempts": 1},
    }
    return made | changes


def plan_row(run_id: str, cell: str, seed: int = 0, **report: Any) -> dict[str, Any]:
    """A line of plan.jsonl; `report` replaces fields of its report part."""
    experiment = report.pop("experiment", "streets_uda")
    return {
        "run_id": run_id,
        "experiment": experiment,
        "cell": cell,
        "seed": seed,
        "spec": {},
        "report": {
            "title": "streets: game to camera (UDA)",
            "description": "Labelled game, unlabelled camera, scored on camera.",
            "layout": "per_class",
            "row": {"label": cell, "method": cell, "encoding": "one-hot"},
            "column": None,
            "paper": None,
            "means": {"mIoU": None},
            "selection": "last.student",
            "order": 0,
            "deviation": "small network and 300 steps",
        }
        | report,
    }


class Results:
    """A results folder under construction."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rows: list[dict[str, Any]] = []

    @property
    def plan(self) -> Path:
        return self.root / "plan.jsonl"

    @property
    def records(self) -> Path:
        return self.root / "records"

    def add(self, row: dict[str, Any], made: dict[str, Any] | None) -> None:
        self.rows.append(row)
        self.plan.parent.mkdir(parents=True, exist_ok=True)
        self.plan.write_text("".join(json.dumps(r) + "\n" for r in self.rows))
        if made is not None:
            write_record(self.records, made)


# name -> (label, method, encoding, quality, ranked)
UDA = {
    "source-only": ("Source-only", "supervised", "one-hot", 0.38, True),
    "dacs_one-hot": ("DACS", "dacs", "one-hot", 0.47, True),
    "dacs_ecoc": ("DACS", "dacs", "ecoc", 0.51, True),
    "oracle": ("Oracle", "supervised", "one-hot", 0.66, False),
}
PAPER = {
    ("dacs", encoding): {
        "table": "table01_uda",
        "where": {"benchmark": "gta2cityscapes", "method": "DACS", "encoding": encoding},
    }
    for encoding in ("one-hot", "ecoc")
}


def add_uda(
    results: Results,
    seeds: Sequence[int] = (0, 1),
    unfinished: Sequence[str] = (),
    experiment: str = "streets_uda",
    paper: bool = False,
    **report: Any,
) -> None:
    """Source-only, DACS with both encodings and the oracle, over the 19 Cityscapes classes."""
    for order, (cell, (label, method, encoding, quality, ranked)) in enumerate(UDA.items()):
        for seed in seeds:
            run_id = f"{experiment}-{cell}-s{seed}"
            row = plan_row(
                run_id, cell, seed, experiment=experiment, order=order,
                row={"label": label, "method": method, "encoding": encoding, "ranked": ranked},
                paper=PAPER.get((method, encoding)) if paper else None,
                means={"mIoU": None, "mIoU16": [c for c in CITYSCAPES
                                                if c not in ("terrain", "truck", "train")]},
            )  # fmt: skip
            row["report"] |= report
            made = record(
                run_id, experiment=experiment, cell=cell, seed=seed, quality=quality,
                ecoc=encoding == "ecoc",
            )  # fmt: skip
            results.add(row, None if run_id in unfinished else made)


def add_grid(results: Results, seeds: Sequence[int] = (0, 1, 2)) -> None:
    """Three rows over three label shares, like the paper's Table 2, with its rows beneath."""
    rows = {
        ("Sup-only", "supervised", "one-hot"): 0.40,
        ("FixMatch", "fixmatch", "one-hot"): 0.48,
        ("FixMatch", "fixmatch", "ecoc"): 0.52,
    }
    for order, ((label, method, encoding), quality) in enumerate(rows.items()):
        for column, gain in (("1/16", 0.0), ("1/8", 0.06), ("1/4", 0.1)):
            cell = f"{method}_{encoding}_{column.replace('/', '-')}"
            for seed in seeds:
                run_id = f"grid-{cell}-s{seed}"
                where = {"method": label, "encoding": encoding, "resolution": "513"}
                row = plan_row(
                    run_id, cell, seed, experiment="ssl_grid", order=order, layout="grid",
                    title="Labelled shares (SSL)", column=column,
                    row={"label": label, "method": method, "encoding": encoding},
                    paper={"table": "table02_ssl_pascal", "where": where,
                           "column": f"resnet101_{column}"},
                )  # fmt: skip
                made = record(
                    run_id, experiment="ssl_grid", cell=cell, seed=seed, quality=quality + gain,
                    classes=CITYSCAPES[:11], ecoc=encoding == "ecoc",
                )  # fmt: skip
                results.add(row, made)


def add_pictures(results: Results, processed: Path) -> None:
    """Panels of the runs, overlays, class colours and trials of a search."""
    draw = np.random.default_rng(0)

    def picture(path: Path, height: int, width: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = draw.integers(0, 255, (8, 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)

    for row in results.rows:
        for step in (90, 100, 300):
            name = f"step_{step}.png"
            picture(results.root / "runs" / row["run_id"] / "pictures" / name, 48, 384)
    colours = draw.integers(0, 255, (len(CITYSCAPES), 3)).tolist()
    for name in ("streets_game", "streets_camera"):
        picture(processed / name / "overlay_train.png", 300, 800)
        (processed / name / "dataset.json").write_text(
            json.dumps({"classes": {"names": CITYSCAPES, "colors": colours, "ignore": 255}})
        )
    add_search(results.root / "search")


def add_search(folder: Path) -> None:
    """Files of a search over a weight, a temperature, a choice and a field that depends on it."""
    names = ("encoding.distance_weight", "encoding.temperature", "encoding.labels")
    trials = [",".join(["trial", *names, "encoding.threshold", "miou", "std", "steps", "state"])]
    for i, labels in enumerate(["hybrid", "bit", "hybrid", "code", "hybrid", "bit"]):
        threshold = 0.9 + 0.02 * i if labels == "hybrid" else ""
        steps, state = (100, "finished") if i % 2 == 0 else (50, "stopped")
        trials.append(
            f"{i + 1},{0.5 * 2**i},{0.1 + 0.3 * i},{labels},{threshold},{30 + i * (i % 3)},1.5,"
            f"{steps},{state}"
        )
    trials.append("7,4.0,1.0,bit,,,,0,failed")
    ranges = {"values": None, "log": True, "when": {}}
    about = {
        "experiment": "streets_uda",
        "cell": "dacs_ecoc",
        "space": "mine",
        "objective": "student/miou",
        "seeds": [0, 1],
        "evaluation": {
            "dataset": "streets_camera", "split": "val", "mode": "whole", "score": "iou"
        },
        "algorithm": "tpe",
        "scheduler": "asha",
        "steps": 100,
        "grace_steps": 50,
        "seed": 0,
        "known": 0,
        "budget": {"trials": 7, "gpu_hours": None},
        "hours": 0.25,
        "hours_of": "GPU",
        "used_up": False,
        "best": 5,
        "parameters": {
            names[0]: {**ranges, "range": [0.5, 50.0]},
            names[1]: {**ranges, "range": [0.1, 5.0]},
            names[2]: {
                "values": ["hybrid", "bit", "code"], "range": None, "log": False, "when": {}
            },
            "encoding.threshold": {
                "values": None, "range": [0.5, 1.0], "log": False, "when": {names[2]: ["hybrid"]}
            },
        },
        "importance": {
            "step": 50, "trials": 6, "shares": {names[0]: 0.5, names[1]: 0.3, names[2]: 0.2}
        },
        "schedules": {},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trials.csv").write_text("\n".join(trials) + "\n")
    (folder / "search.json").write_text(json.dumps(about))


class Make:
    """The builders above, for tests that cannot import this file."""

    Results = Results
    CITYSCAPES = CITYSCAPES
    PAPER = PAPER
    record = staticmethod(record)
    plan_row = staticmethod(plan_row)
    add_uda = staticmethod(add_uda)
    add_grid = staticmethod(add_grid)
    add_pictures = staticmethod(add_pictures)
    add_search = staticmethod(add_search)


@pytest.fixture(scope="session")
def make() -> type[Make]:
    return Make


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "results")


@pytest.fixture
def tables(results: Results) -> Callable[[], list[Any]]:
    """The tables of what was added to `results` so far."""
    from pipeline.report.runs import load_experiments
    from pipeline.report.tables import build_table

    return lambda: [build_table(e) for e in load_experiments(results.plan, results.records)]
