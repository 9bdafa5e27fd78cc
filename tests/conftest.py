"""Fixtures that several folders of tests share: tiny prepared data, a tiny network, tiny runs."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

WEIGHTS_SEED = 3
_DAFORMER = {
    "rare_class_min_pixels": 20,
    "margins": [2, 6, 0, 0],
    "feature_weight": 0.05,
    # Most places of a feature map of 1x2 hold several classes.
    "feature_classes": [0, 2, 8, 10, 13],
    "feature_min_ratio": 0.51,
}
SMALL_METHODS = {
    "daformer": _DAFORMER,
    "mic": {
        "inner": {"name": "daformer", **_DAFORMER, "margins_of": "image"},
        "mask_block": 16,
    },
}
"""Fields of the methods whose defaults are for crops of 512 pixels, for crops of 32x64."""
SMALL_MODELS = {
    "daformer": {"decoder": "daformer"},
    "mic": {"decoder": "hrda", "hr_crop": (32, 32)},
}
"""What a method's network has other than `tiny_model_config`."""


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
    from ecocseg.models.segmenter import ModelConfig

    return ModelConfig(encoder="tu-test_resnet", decoder="fpn", decoder_channels=32)


@pytest.fixture(scope="session")
def tiny_run(manifests, tiny_model_config, tmp_path_factory) -> Callable[..., SimpleNamespace]:
    """Make what a run consists of: tiny_run(method, encoding, **fields of FitConfig).

    Crops of 32x64 of `streets_data`, batches of 2. Gives .trainer, .streams, .evaluate,
    .encoding and .events(), which starts the run. `quality` overrides the encoding's threshold,
    `double` takes networks of float64 and leaves images unscaled: what all processors agree on.
    """
    import torch

    from ecocseg.data.benchmark import BenchmarkConfig, SourceConfig, build_streams, source_rows
    from ecocseg.data.transforms import TransformConfig
    from ecocseg.encodings import build_encoding
    from ecocseg.engine.evaluate import evaluate
    from ecocseg.engine.fit import Trainer
    from ecocseg.engine.optim import OptimConfig
    from ecocseg.engine.schedule import FitConfig
    from ecocseg.engine.seed import seeded
    from ecocseg.methods import build_method
    from ecocseg.models.segmenter import build_model

    cpu = torch.device("cpu")
    benchmark = BenchmarkConfig(
        name="tiny",
        labelled=SourceConfig(dataset="streets_game"),
        unlabelled=SourceConfig(dataset="streets_camera"),
        evaluated=SourceConfig(dataset="streets_camera", split="val"),
        labelled_transform=TransformConfig(crop=(32, 64), max_class_share=0.75),
        # Some crops are padded: 0.5 x 48 < 32.
        unlabelled_transform=TransformConfig(crop=(32, 64), scale=(0.5, 1.5)),
    )
    rows = source_rows(benchmark.evaluated, manifests)

    def make(
        method: str,
        encoding: str,
        *,
        quality: float | None = None,
        double: bool = False,
        seed: int = 0,
        folder: Path | None = None,
        **fields,
    ) -> SimpleNamespace:
        options = {} if quality is None else {"quality_threshold": quality}
        encoder = build_encoding(encoding, options, manifests["streets_camera"].names)
        with seeded(WEIGHTS_SEED):
            model = build_model(
                replace(tiny_model_config, **SMALL_MODELS.get(method, {})), encoder.channels
            )
        if double:
            model = model.double()
            # Processors draw normal numbers with their own rounding.
            for parameter in model.parameters():
                parameter.data.mul_(4096).round_().div_(4096)
        fields = {
            "steps": 4,
            "log_every": 1,
            "evaluate_every": 100,
            "checkpoint_every": 100,
        } | fields
        fields.setdefault("optim", OptimConfig(lr=1e-3, head_lr_factor=2.0))
        built = build_method(method, SMALL_METHODS.get(method, {}))
        trainer = Trainer(
            FitConfig(**fields),
            model=model,
            encoding=encoder,
            method=built,
            device=cpu,
            seed=seed,
            folder=folder or tmp_path_factory.mktemp("stages"),
        )
        streams = build_streams(benchmark, manifests, built.streams, 2, 2)
        streams = [built.adapt(stream) for stream in streams]
        if double:
            # Scaling 8-bit images rounds differently with and without vector instructions.
            streams = [replace(s, transform=replace(s.transform, scale=None)) for s in streams]

        def score(network):
            return evaluate(network, encoder, rows, benchmark.evaluation, cpu)

        return SimpleNamespace(
            trainer=trainer,
            streams=streams,
            evaluate=score,
            encoding=encoder,
            rows=rows,
            benchmark=benchmark,
            events=lambda: trainer.fit(streams, score),
        )

    return make
