"""Every cell of the paper's semi-supervised tables: composed as it is, then smoke-run in small.

The files lie as in the real data sets; sizes, networks, batches and lists shrink. Of cells that are
the same in small (networks differ in their encoder alone) one is run.
"""

import copy
import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from ecocseg.data.config import DatasetConfig
from ecocseg.data.manifest import processed_dir
from pipeline.config.compose import load_yaml, names
from pipeline.config.experiment import load_experiment, report_of
from pipeline.config.params import load_params
from pipeline.config.run_spec import RunSpec, validate
from pipeline.planning.plan import compose_cell, fingerprint, plan_row
from pipeline.report import published

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "data")]
EXPERIMENTS = (
    "table02_ssl_pascal",
    "table06_codebook_ssl",
    "table08_ssl_cityscapes",
    "table09_ssl_coco",
    "table10_ssl_pascal_highquality",
    "table11_change_whu",
    "table12_medical_acdc",
    "table13_quality_estimate",
)
METHODS = {
    "Sup-only": "supervised",
    "ST++": "stpp",
    "FixMatch": "fixmatch",
    "UniMatch": "unimatch",
    "UniMatch V2": "unimatch_v2",
}
# What makes networks small, by decoder, and the sides of their crops.
_SMALL_RESNET = {"encoder": "tu-test_resnet", "decoder_channels": 16, "multi_grid": False}
MODELS = {
    "deeplabv3plus_dense": (_SMALL_RESNET, 32),
    "unet_slices": ({}, 32),
    "pspnet_siamese": ({"encoder": "tu-test_resnet"}, 32),
    "dpt_vit": ({"encoder": "tu-test_vit", "decoder_channels": 16}, 32),
}
# A stored size, for the sets that have one.
SIZES = {"acdc": [32, 32]}


@pytest.fixture(scope="module")
def cells():
    """Experiment -> cell -> (entry, configuration, components), composed as they are."""
    found = {}
    for name in EXPERIMENTS:
        experiment = load_experiment(name)
        found[name] = {
            cell: (entry, *compose_cell(experiment, cell, [], strict=True))
            for cell, entry in experiment["cells"].items()
        }
    return found


def test_every_table_of_the_paper_is_listed():
    """A new table is smoke-run here or in `test_uda_cells.py`, or fails here."""
    from test_uda_cells import EXPERIMENTS as OTHERS

    tables = {name for name in names("experiment") if name.startswith("table")}
    assert tables <= set(EXPERIMENTS) | set(OTHERS)
    assert tables == set(published.published_tables())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_printed_number_of_our_methods_has_its_cell(cells, name):
    told = {"method", "encoding", "resolution", "partition", "backbone"}
    printed = Counter(
        (tuple(row.values()), column)
        for row in published.published_table(name)
        if row.get("method", "UniMatch") in METHODS
        for column, text in row.items()
        if column not in told and text
    )
    found: Counter = Counter()
    for entry, config, _ in cells[name].values():
        row = published.published_row(name, entry["paper"]["where"])
        wanted = str(entry["paper"].get("column") or entry["column"])
        value = published.column_value(name, row, wanted)
        (column,) = [c for c in row if published.same_column(c, wanted)]
        assert value == float(row[column])
        found[tuple(row.values()), column] += 1
        method = row.get("method", "UniMatch")
        assert (entry["label"], config["method"]["name"]) == (method, METHODS[method])
        encoding = row.get("encoding") or {"baseline": "one-hot"}.get(wanted, "ecoc")
        assert config["encoding"]["name"] == encoding
    assert found == printed
    assert set(found.values()) == {1}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_references_are_the_methods_that_are_not_run(name):
    experiment = load_experiment(name)
    references = experiment.get("reference", ())
    shown = [published.published_row(each["table"], each["where"]) for each in references]
    others = [
        row
        for row in published.published_table(name)
        if row.get("method", "UniMatch") not in METHODS
    ]
    assert shown == others


def spec_of(cells, name, cell):
    return RunSpec(experiment=name, cell=cell, seed=0, config=cells[name][cell][1], data={})


def test_no_two_cells_are_one_run_but_those_that_tables_share(cells):
    digests: dict[str, list[str]] = {}
    for name, found in cells.items():
        for cell in found:
            digests.setdefault(spec_of(cells, name, cell).digest, []).append(f"{name[5:7]} {cell}")
    assert sorted(shared for shared in digests.values() if len(shared) > 1) == [
        ["02 321_unimatch_ecoc_r101_1_16", "06 text_1_16"],
        ["02 321_unimatch_ecoc_r101_1_4", "06 text_1_4", "13 ecoc_image"],
        ["02 321_unimatch_one-hot_r101_1_16", "06 baseline_1_16"],
        ["02 321_unimatch_one-hot_r101_1_4", "06 baseline_1_4", "13 one-hot_pixel"],
    ]


def test_the_recipes(cells):
    """Rates, batches and thresholds as the papers and their code have them."""
    rates = {"02": 1e-3, "06": 1e-3, "08": 5e-3, "09": 4e-3, "10": 5e-6, "11": 2e-2, "12": 1e-2,
             "13": 1e-3}  # fmt: skip
    batches = {"10": 16, "12": 12}
    for name, found in cells.items():
        table = name[5:7]
        for cell, (_, config, components) in found.items():
            schedule, encoding = components.schedule, config["encoding"]
            method = config["method"]["name"]
            batch = batches.get(table, 8)
            # Sup-only: twice the labelled images, the same rate.
            labelled = 2 * batch if method == "supervised" else batch
            assert (schedule.labelled_batch, schedule.unlabelled_batch) == (labelled, batch), cell
            rate = schedule.optim.for_batch(schedule.labelled_batch).lr
            assert rate == pytest.approx(rates[table]), cell
            assert config["method"]["ohem_threshold"] == (0.7 if table == "08" else None)
            if method == "supervised":
                assert config["method"]["divisor"] == "valid"
            elif method != "stpp" and table != "13":
                pixel = encoding["name"] == "one-hot"
                assert encoding["quality"] == ("pixel" if pixel else "image")
                assert encoding["quality_threshold"] == (0 if pixel and table == "08" else 0.95)
            if encoding["name"] == "ecoc":
                assert encoding["length"] == {"09": 60, "11": 10, "12": 21}.get(table, 40)
            # ST++ scales to half to twice 400 pixels, the others to half to twice an image's own.
            benchmark = components.benchmark
            for transform in (benchmark.labelled_transform, benchmark.unlabelled_transform):
                assert transform.base_size == (400 if method == "stpp" else None), cell
            assert benchmark.evaluation.border == ("clip" if table == "08" else "shift")
            assert benchmark.evaluation.multiple == (14 if table == "10" else None)
            criterion = "dice" if table == "12" else "ce"
            assert encoding.get("criterion", criterion) == criterion


@pytest.fixture(scope="module")
def data_root(tmp_path_factory, single_thread) -> Path:
    """The five data sets of the tables in their layouts, prepared, with every published list."""
    import raw_trees

    from ecocseg.data.prepare import prepare

    root = tmp_path_factory.mktemp("ssl")
    raw = root / "raw"
    test = load_yaml("dataset", "acdc")["splits"]["test"]["patients"]
    val = load_yaml("dataset", "acdc")["splits"]["val"]["patients"]
    voc = raw_trees.voc(raw / "pascal", blended=6, val=2)
    streets = raw_trees.cityscapes(raw / "cityscapes_ssl", {"train": 6})
    raw_trees.cityscapes(raw / "cityscapes_ssl", {"val": 2})
    raw_trees.coco(raw / "coco", {"train": 6, "val": 2})
    raw_trees.acdc(raw / "acdc", {"090": 3, "091": 3}, dict.fromkeys([*val, *test], 1))
    pairs = raw_trees.whu_cd(raw / "whu_cd", {"train": 6, "test": 2})
    lines = {
        "pascal": [f"JPEGImages/{k}.jpg SegmentationClass/{k}.png" for k in voc],
        "coco": [f"train2017/{5000 + i:012d}.jpg masks/{5000 + i:012d}.png" for i in range(6)],
        "acdc": [
            f"data/slices/patient{patient}_frame01_slice_{place}.h5"
            for patient in ("090", "091")
            for place in (1, 2, 3)
        ],
        "whu_cd": pairs,
    }
    lines["cityscapes_ssl"] = [
        f"leftImg8bit/train/{key.partition('_')[0]}/{key}_leftImg8bit.png gtFine/{key}_labelIds.png"
        for key in streets
    ]
    for name, listed in lines.items():
        values = load_yaml("dataset", name)
        config = DatasetConfig.from_mapping(values | {"size": SIZES.get(name), "images": {}})
        files = {}
        for place, partition in enumerate(config.partitions):
            files[partition] = raw / f"{name}_{partition}.txt"
            # Each list has two images of its own choice.
            chosen = [listed[place % 5], listed[place % 5 + 1]]
            files[partition].write_text("".join(f"{line}\n" for line in chosen))
        prepare(config, raw / name, processed_dir(root, name), workers=1, partitions=files)
    return root


def shrunk(config):
    """The configuration of a cell in small."""
    config = copy.deepcopy(config)
    changes, side = MODELS[config["model"]["decoder"]]
    config["model"] |= {"weights": "none", **changes}
    benchmark = config["benchmark"]
    for name in ("labelled_transform", "unlabelled_transform"):
        benchmark[name]["crop"] = [side, side]
    if benchmark["evaluation"]["mode"] == "slide":
        benchmark["evaluation"] |= {"window": [32, 32], "stride": [21, 21]}
    config["schedule"] |= {"labelled_batch": 2, "unlabelled_batch": 2, "loader_workers": 0}
    if config["method"]["name"] == "stpp":
        config["method"]["label_scales"] = [0.5, 1.0]
    if "ohem_min_kept" in config["method"]:
        config["method"]["ohem_min_kept"] = 50
    return config


@pytest.fixture(scope="module")
def done() -> set[str]:
    """The small configurations that ran."""
    return set()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_two_steps_of_every_cell(cells, done, name, data_root, tmp_path):
    from pipeline.runner.run import execute_smoke

    experiment = load_experiment(name)
    params = load_params([f"data.root={data_root}"])
    settings = {
        "data_root": str(data_root),
        "results": str(tmp_path),
        "device": "cpu",
        "git": "test",
        "tracking": {"enabled": False},
    }
    ran = 0
    for cell, (entry, real, _) in cells[name].items():
        config = shrunk(real)
        content = json.dumps(config, sort_keys=True)
        if content in done:
            continue
        done.add(content)
        components = validate(config)
        data = {d: fingerprint(params, d, True) for d in components.benchmark.datasets}
        spec = RunSpec(experiment=name, cell=cell, seed=0, config=config, data=data)
        report = report_of(experiment, entry, config, 0, [])
        execute_smoke(plan_row(spec, components, report, cost=1.0), settings)
        ran += 1
    assert len(list(tmp_path.rglob("*.json"))) == ran
