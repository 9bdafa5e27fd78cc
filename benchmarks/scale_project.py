"""A made-up project of thousands of runs for scale.py: experiments, prepared data, records."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import pipeline.config.compose
from ecocseg.data.manifest import SCHEMA

SEEDS = 20
CLASSES = [
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
    "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
    "motorcycle", "bicycle",
]  # fmt: skip
STEPS, LOG_EVERY, EVALUATE_EVERY = 40_000, 50, 4_000
LOGGED = (
    "loss", "loss/labelled", "labelled/bce", "labelled/distance", "labelled/contrast",
    "loss/mixed", "mixed/bce", "mixed/distance", "mixed/contrast", "pseudo/confidence",
    "pseudo/quality", "pseudo/mask_share", "pseudo/candidates", "pseudo/difference",
    "pseudo/correction", "lr",
)  # fmt: skip
METHODS = (
    ("Source-only", "method=supervised"),
    ("DACS", "method=dacs"),
    ("DAFormer", "method=daformer"),
)


def experiments(cells: int) -> dict[str, dict[str, Any]]:
    """Two experiment files with so many cells together; a tenth of the second repeat the first."""
    head = {
        "defaults": [
            {"override /benchmark": "gta2cityscapes"},
            {"override /model": "daformer_mitb5"},
            {"override /method": "daformer"},
            {"override /encoding": "ecoc"},
            {"override /schedule": "uda"},
            "_self_",
        ]
    }
    grid, table = {}, {}
    half = cells // 2
    for i in range(half):
        label, method = METHODS[i % 3]
        encoding = ("one-hot", "ecoc")[i // 3 % 2]
        overrides = [method, f"encoding={encoding}", f"encoding.quality_threshold={value(i)}"]
        if encoding == "ecoc":
            overrides += [f"encoding.threshold={value(i + 7)}", f"encoding.distance_weight={1 + i}"]
        grid[f"c{i:03d}_{encoding}"] = {
            "label": label, "column": f"{i // 6}", "overrides": overrides,
        }  # fmt: skip
    for i in range(cells - half):
        encoding = ("one-hot", "ecoc")[i % 2]
        shared = list(grid.values())[i]["overrides"] if i < half // 10 else None
        table[f"t{i:03d}_{encoding}"] = {
            "label": f"Setting {i // 2}",
            "overrides": shared
            or [
                "method=dacs",
                "model=deeplabv2_resnet101",
                f"encoding={encoding}",
                f"schedule.optim.lr={1e-5 * (1 + i // 2):.6f}",
            ],
        }
    return {
        name: head
        | {
            "experiment": {
                "name": name,
                "title": f"Scale: {layout}",
                "description": "Made up.",
                "layout": layout,
                "means": {"mIoU": None},
                "selection": "last.student",
                "cells": made,
            }
        }
        for name, layout, made in (
            ("scale_grid", "grid", grid),
            ("scale_table", "per_class", table),
        )
    }


def value(number: int) -> float:
    """One of 400 thresholds."""
    return round(0.6 + 0.001 * (number % 400), 3)


def make_project(folder: Path, runs: int) -> None:
    """Configuration, parameters and prepared data (their description only) for so many runs."""
    conf = folder / "conf"
    shutil.copytree(pipeline.config.compose.CONF, conf)
    for name, made in experiments(runs // SEEDS).items():
        text = "# @package _global_\n" + yaml.safe_dump(made, sort_keys=False)
        (conf / "experiment" / f"{name}.yaml").write_text(text)
    params = {"experiments": ["scale_grid", "scale_table"], "seeds": list(range(SEEDS))}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    for name in ("gta", "cityscapes"):
        described = {"schema": SCHEMA, "name": name, "fingerprint": f"{name:0<64}"}
        path = folder / "data/processed" / name / "dataset.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(described))


def write_records(folder: Path) -> None:
    """Records of all runs below results/, of every second one below half/."""
    from pipeline.planning.plan import read_plan
    from pipeline.store.record import read_record
    from pipeline.store.record_text import to_text

    rows = read_plan(folder / "results/plan.jsonl")
    long = [training_text(number, to_text) for number in range(4)]
    for name in ("results", "half"):
        (folder / name / "records").mkdir(parents=True)
    for place, row in enumerate(rows):
        made = record(row, place)
        text = to_text(made).replace('"train": []', f'"train": {long[place % 4]}')
        path = folder / "results/records" / f"{row['run_id']}.json"
        path.write_text(text)
        if place % 2:
            os.link(path, folder / "half/records" / path.name)
        if place < 4:
            read_record(path)


def record(row: dict[str, Any], place: int) -> dict[str, Any]:
    """A record of the plan row without its curves of training."""
    draw = np.random.default_rng(place)
    ecoc = row["report"]["row"]["encoding"] == "ecoc"
    base = 0.45 + 0.1 * ecoc + 0.0002 * (place // SEEDS)

    def matrix() -> list[list[int]]:
        pixels = draw.integers(0, 200_000, (19, 19))
        right = np.diag((20 * base * pixels.sum(1)).astype(np.int64))
        return [[int(n) for n in line] for line in pixels + right]

    def result(step: int) -> dict[str, Any]:
        return {"step": step, **{who: {"confusion": matrix()} for who in ("student", "teacher")}}

    points = [
        {"step": step, "student/miou": 100 * base * float(draw.uniform(0.9, 1)),
         "teacher/miou": 100 * base * float(draw.uniform(0.9, 1))}
        for step in range(EVALUATE_EVERY, STEPS + 1, EVALUATE_EVERY)
    ]  # fmt: skip
    return {
        "schema": 1,
        "run_id": row["run_id"],
        "experiment": row["experiment"],
        "cell": row["cell"],
        "seed": row["seed"],
        "spec": row["spec"],
        "classes": CLASSES,
        "protocol": {
            "dataset": "cityscapes", "split": "val", "images": 500, "mode": "whole", "window": None,
            "stride": None, "average": "scores", "image_size": [512, 1024],
            "label_size": "original", "fingerprint": row["spec"]["data"]["cityscapes"],
        },
        "results": {"last": result(STEPS), "best": result(STEPS - EVALUATE_EVERY)},
        "curves": {"train": [], "eval": points},
        "diagnostics": diagnostics(draw, 40 if ecoc else 19, ecoc),
        "data": row["spec"]["data"],
        "network": {"parameters": 85_000_000, "macs": 1.2e11, "size": [512, 512]},
        "paper_exact": False,
        "deviations": [],
        "environment": {
            "git": "0" * 40, "versions": {"python": "3.11.7", "torch": "2.15.0"},
            "host": f"box{place % 16}", "device": "cuda:0", "device_name": "RTX 3090",
            "threads": 1, "precision": "fp32",
        },
        "timing": {
            "seconds": 49_320.5, "steps_per_second": 0.8, "peak_memory_mb": 9_800, "attempts": 1,
        },
    }  # fmt: skip


def diagnostics(draw: np.random.Generator, channels: int, ecoc: bool) -> dict[str, Any]:
    """Counts of the right sizes."""

    def counts(rows: int) -> dict[str, Any]:
        many = draw.integers(1, 5_000, (rows, 10))
        return {
            "count": many.tolist(), "confidence": (many * 0.7).tolist(),
            "correct": (many * 0.6).astype(int).tolist(),
        }  # fmt: skip

    def network() -> dict[str, Any]:
        labels: dict[str, Any] = {}
        if ecoc:
            sweep = draw.integers(1, 160_000, (2, 8))
            labels = {
                "candidates": [1] * 19, "bits": 163_840, "difference": 3, "correction": 1,
                "right_correction": 1, "sweep_right": sweep[0].tolist(),
                "sweep_mask": sweep[1].tolist(),
            }  # fmt: skip
        return {
            "pixels": 4_096, "rank": draw.integers(1, 900, 19).tolist(), "labels": labels,
            "bits": counts(channels), "classes": counts(19),
        }  # fmt: skip

    found = {"images": 8, "student": network(), "teacher": network()}
    if ecoc:
        rows = np.random.default_rng(0).integers(0, 2, (19, channels))
        found["codebook"] = ["".join(map(str, bits)) for bits in rows]
        found["thresholds"] = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0]
    return found


def training_text(number: int, to_text: Callable[[dict[str, Any]], str]) -> str:
    """The curves of training of a run as they stand in its file."""
    draw = np.random.default_rng(number)
    points = [
        {"step": step, **{name: float(draw.normal(1, 0.1)) for name in LOGGED}}
        for step in range(LOG_EVERY, STEPS + 1, LOG_EVERY)
    ]
    text = to_text({"curves": {"train": points}})
    return text[text.index("[") : text.rindex("]") + 1]
