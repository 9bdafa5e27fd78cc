"""Every cell of the domain adaptation experiments, smoke-run on small files in the real layouts.

The cells are the real ones; only sizes shrink: images, crops, network, and the pixel counts that go
with them.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config.compose import load_yaml
from pipeline.config.params import load_params
from pipeline.config.run_spec import RunSpec
from pipeline.planning.plan import compose_cell, fingerprint, load_experiment, plan_row, report_of
from pipeline.stages.train import smoke_rows

sys.path.insert(0, str(Path(__file__).parent / "data"))
EXPERIMENTS = {
    "table01_uda": 12,
    "table03_loss_ablation": 6,
    "table04_threshold_ablation": 13,
    "table05_codebook_uda": 6,
    "table07_code_length": 6,
    "table14_loss_hyperparameters": 16,
    "table15_training_cost": 2,
    "streets_uda_full": 8,
}
# Stored sizes that stand for 1280x720 or 1024x512, and for twice that.
SIZES = {"": [64, 128], "_hr": [128, 256]}
SYNTHIA_IDS = {7: 3, 8: 4, 11: 2, 12: 21, 13: 5, 17: 7, 19: 15, 20: 9, 21: 6, 23: 1, 24: 10,
               25: 17, 26: 8, 28: 19, 32: 12, 33: 11}  # fmt: skip
"""Cityscapes label id -> SYNTHIA's."""


def write_synthia(game: Path, root: Path) -> None:
    """The game scenes in SYNTHIA's files: 16-bit labels, instance numbers in the second channel."""
    from png_writer import write_png16

    for image in sorted((game / "images").glob("*.png")):
        name = f"00{image.name}"
        (root / "RGB").mkdir(parents=True, exist_ok=True)
        Image.open(image).save(root / "RGB" / name)
        ids = np.asarray(Image.open(game / "labels" / image.name))
        classes = np.zeros(ids.shape, dtype=np.uint16)
        for cityscapes, synthia in SYNTHIA_IDS.items():
            classes[ids == cityscapes] = synthia
        instances = (np.indices(ids.shape).sum(0) % 23).astype(np.uint16)
        (root / "GT/LABELS").mkdir(parents=True, exist_ok=True)
        write_png16(root / "GT/LABELS" / name, np.stack([classes, instances, 0 * classes], axis=-1))


@pytest.fixture(scope="module")
def data_root(tmp_path_factory, single_thread) -> Path:
    """GTAv, SYNTHIA and Cityscapes at both resolutions, and the streets, prepared."""
    from ecocseg.data.config import DatasetConfig
    from ecocseg.data.manifest import processed_dir
    from ecocseg.data.prepare import prepare
    from ecocseg.data.streets import write_dataset

    root = tmp_path_factory.mktemp("uda")
    sizes = {"height": 128, "width": 256, "workers": 1}
    write_dataset(root / "raw/gta", "game", {"train": 6}, seed=0, **sizes)
    write_dataset(root / "raw/cityscapes", "camera", {"train": 4, "val": 2}, seed=1, **sizes)
    write_synthia(root / "raw/gta", root / "raw/synthia")
    for name in ("gta", "synthia", "cityscapes"):
        for suffix, size in SIZES.items():
            values = load_yaml("dataset", f"{name}{suffix}") | {"size": size, "partitions": {}}
            config = DatasetConfig.from_mapping(values)
            assert config.raw_name == name
            folder = processed_dir(root, f"{name}{suffix}")
            prepare(config, root / "raw" / name, folder, workers=1)
    for name, raw in (("streets_game", "gta"), ("streets_camera", "cityscapes")):
        values = load_yaml("dataset", name) | {"size": SIZES[""]}
        config = DatasetConfig.from_mapping(values)
        prepare(config, root / "raw" / raw, processed_dir(root, name), workers=1)
    return root


def small(config) -> list[str]:
    """Overrides that shrink a cell, whatever its method and network."""
    slides = config["benchmark"]["evaluation"]["mode"] == "slide"
    side = 128 if slides else 64
    overrides = [
        "model.encoder=tu-test_resnet",
        "model.weights=none",
        "schedule.loader_workers=0",
        f"benchmark.labelled_transform.crop=[{side},{side}]",
    ]
    if config["benchmark"].get("unlabelled_transform") is not None:
        overrides.append(f"benchmark.unlabelled_transform.crop=[{side},{side}]")
    if slides:
        overrides += [
            "benchmark.evaluation.window=[128,128]",
            "benchmark.evaluation.stride=[64,64]",
        ]
    if config["model"]["decoder"] != "deeplabv2":
        overrides.append("model.decoder_channels=16")
    if config["model"]["decoder"] == "hrda":
        overrides.append(f"model.hr_crop=[{side // 2},{side // 2}]")
    inner = {"daformer": "method", "mic": "method.inner"}.get(config["method"]["name"])
    if inner is not None:
        overrides += [f"{inner}.margins=[2,8,2,2]", f"{inner}.rare_class_min_pixels=20"]
    return overrides


def rows_of(name: str, root: Path) -> list[dict]:
    """Plan rows of an experiment, each cell shrunk."""
    experiment = load_experiment(name)
    params = load_params([f"data.root={root}"])
    rows = []
    for cell, entry in experiment["cells"].items():
        real, _ = compose_cell(experiment, cell, [])
        config, components = compose_cell(experiment, cell, small(real), strict=True)
        data = {d: fingerprint(params, d, True) for d in components.benchmark.datasets}
        spec = RunSpec(experiment=name, cell=cell, seed=0, config=config, data=data)
        rows.append(plan_row(spec, components, report_of(experiment, entry, config, 0, [])))
    return rows


def test_tables_mix_and_weigh_by_the_batch_as_the_released_code():
    """Runs without pseudo-labels stay those of the supervised tables, small studies as before."""
    for name in EXPERIMENTS:
        experiment = load_experiment(name)
        for cell in experiment["cells"]:
            config, _ = compose_cell(experiment, cell, [], strict=True)
            method = config["method"].get("inner", config["method"])
            taught = method["name"] != "supervised"
            wanted = "batch" if taught and name.startswith("table") else "image"
            assert config["encoding"]["quality"] == wanted, cell
            assert method.get("mix_classes") == (wanted if taught else None), cell


def test_the_tables_take_what_the_public_code_runs():
    """Woof6/ECOCSeg: mining among 8 classes, the codebook alone below the contrast, its own head
    for every encoding; Table 15's published cost is a linear one's, DeepLabV2 is its own.
    lhoyer/MIC: the teacher of DACS alone has 0.99; a MiT's LayerNorms alone are not decayed."""
    runs: dict[str, list[str]] = {}
    for name in (name for name in EXPERIMENTS if name.startswith("table")):
        experiment = load_experiment(name)
        for cell in experiment["cells"]:
            config, _ = compose_cell(experiment, cell, [])
            model, encoding, schedule = config["model"], config["encoding"], config["schedule"]
            if encoding["name"] == "ecoc":
                assert (encoding["max_candidates"], encoding["denominator"]) == (8, "codebook")
            linear = name.startswith("table15") or model["decoder"] == "deeplabv2"
            assert model["head"] == ("linear" if linear else "projection"), cell
            assert schedule["ema_decay"] == (0.99 if config["method"]["name"] == "dacs" else 0.999)
            assert schedule["optim"]["undecayed"] == "layer_norms"
            digest = RunSpec(experiment=name, cell=cell, seed=0, config=config, data={}).digest
            runs.setdefault(digest, []).append(f"{name[5:7]} {cell}")
    assert sorted(shared for shared in runs.values() if len(shared) > 1) == [
        ["01 gta_daformer_ecoc", "04 text_t095", "05 gta_text"],
        ["01 gta_daformer_one-hot", "04 baseline", "05 gta_baseline"],
        ["01 synthia_daformer_ecoc", "05 synthia_text"],
        ["01 synthia_daformer_one-hot", "05 synthia_baseline"],
        ["03 mmd", "04 mmd_oracle"],
        ["03 text", "04 text_oracle", "07 k40", "14 default"],
        ["04 mmd_t099", "05 gta_mmd"],
    ]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_two_steps_of_every_cell(experiment, data_root, tmp_path):
    from pipeline.runner.run import execute_smoke

    rows = rows_of(experiment, data_root)
    assert len(rows) == EXPERIMENTS[experiment]
    settings = {
        "data_root": str(data_root),
        "results": str(tmp_path),
        "device": "cpu",
        "git": "test",
        "tracking": {"enabled": False},
    }
    todo = smoke_rows(rows)
    # No two cells of one table are the same run.
    assert len(todo) == len(rows)
    for row in todo:
        execute_smoke(row, settings)
    marks = list(tmp_path.rglob("*.json"))
    assert len(marks) == len(rows)
