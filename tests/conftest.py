"""Fixtures that several folders of tests share: tiny prepared data, a tiny network, tiny runs."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

# Modules beside this file, and the benchmarks, by bare name; processes that tests spawn find the
# former too.
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "benchmarks")]


def pytest_addoption(parser):
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="accept the present numbers and tables as the golden ones; review the diff",
    )


def pytest_collection_modifyitems(items):
    # The longest file first, so that with two processes it does not stretch the end.
    items.sort(key=lambda item: item.path.name != "test_end_to_end.py")


def pytest_configure(config):
    if config.getoption("--update-golden"):
        os.environ["ECOCSEG_UPDATE_GOLDEN"] = "1"


@pytest.fixture(scope="session")
def single_thread():
    """Tiny networks are slower on several threads, and the machines are shared."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def streets_data(tmp_path_factory, single_thread) -> Path:
    """A data root holding processed/streets_game (8 train) and streets_camera (8 train, 4 val).

    48x96 pixels, 19 classes.
    """
    from ecocseg.data.config import DatasetConfig
    from ecocseg.data.manifest import processed_dir
    from ecocseg.data.prepare import prepare
    from ecocseg.data.streets import write_dataset

    root = tmp_path_factory.mktemp("data")
    sets = (
        ("game", "gta", "gta19", {"train": 8}, {"train": {}}),
        ("camera", "cityscapes", "cityscapes19", {"train": 8, "val": 4}, None),
    )
    for seed, (domain, layout, classes, counts, splits) in enumerate(sets):
        name = f"streets_{domain}"
        size = {"height": 48, "width": 96, "seed": seed}
        write_dataset(root / "raw" / name, domain, counts, **size, workers=1)
        config = DatasetConfig.from_mapping(
            {
                "name": name,
                "layout": layout,
                "classes": classes,
                "splits": splits or {"train": {}, "val": {"evaluate": True}},
                "raw": {
                    "kind": "generate",
                    "generator": "streets",
                    "domain": domain,
                    "counts": counts,
                    **size,
                },
            }
        )
        prepare(config, root / "raw" / name, processed_dir(root, name), workers=1)
    return root


@pytest.fixture(scope="session")
def manifests(streets_data):
    from ecocseg.data.manifest import load_manifest, processed_dir

    names = ("streets_game", "streets_camera")
    return {name: load_manifest(processed_dir(streets_data, name)) for name in names}


@pytest.fixture(scope="session")
def tiny_model_config(single_thread):
    """A network of 0.8 million parameters, with batch normalisation and dropout."""
    from tiny_runs import tiny_model

    return tiny_model()


@pytest.fixture(scope="session")
def tiny_run(manifests, tiny_model_config, tmp_path_factory) -> Callable[..., SimpleNamespace]:
    """Make what a run consists of: tiny_run(method, encoding, **fields of FitConfig).

    Crops of 32x64 of `streets_data`, batches of 2. Gives .trainer, .streams, .evaluate,
    .encoding and .events(), which starts the run. `quality` overrides the encoding's threshold,
    `double` takes networks of float64 and leaves images unscaled: what all processors agree on.
    """
    from tiny_runs import maker

    return maker(manifests, tiny_model_config, lambda: tmp_path_factory.mktemp("stages"))


@pytest.fixture(scope="session")
def plan_streets(streets_data, manifests) -> Callable[..., tuple[dict, dict]]:
    """Make (row of the plan, settings) of a cell of `streets_uda` on `streets_data`.

    plan_streets(cell, results, overrides, **more settings), of two steps a checkpoint and six in
    all unless overridden; tracking is off.
    """
    from tiny_runs import planned

    return lambda cell, results, overrides=(), **settings: planned(
        streets_data, manifests, cell, results, overrides, **settings
    )
