"""Runs of a tiny network on tiny data; importable, so that other processes make the same ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from ecocseg.data.benchmark import BenchmarkConfig, SourceConfig, build_streams, source_rows
from ecocseg.data.transforms import TransformConfig
from ecocseg.encodings import build_encoding
from ecocseg.engine.distributed import SINGLE, Group
from ecocseg.engine.evaluate import evaluate
from ecocseg.engine.fit import Trainer
from ecocseg.engine.optim import OptimConfig
from ecocseg.engine.schedule import FitConfig
from ecocseg.engine.seed import seeded
from ecocseg.methods import build_method
from ecocseg.models.segmenter import ModelConfig, build_model

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


SMALL_RUN = (
    "schedule.steps=6",
    "schedule.labelled_batch=2",
    "schedule.unlabelled_batch=2",
    "schedule.log_every=2",
    "schedule.evaluate_every=6",
    "schedule.checkpoint_every=2",
    "model=small",
    "model.decoder_channels=16",
    "benchmark.labelled_transform.crop=[32,64]",
    "benchmark.unlabelled_transform.crop=[32,64]",
)
"""Overrides that make a cell of `streets_uda` a run of a second."""


def planned(
    data_root: Path,
    manifests: Mapping[str, Any],
    cell: str,
    results: Path,
    overrides: Sequence[str] = (),
    **more: Any,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the fixture `plan_streets` is."""
    from pipeline.config.run_spec import RunSpec
    from pipeline.planning.plan import compose_cell, load_experiment, plan_row

    overrides = [*SMALL_RUN, *overrides]
    config, components = compose_cell(load_experiment("streets_uda"), cell, overrides)
    data = {name: manifests[name].fingerprint for name in components.benchmark.datasets}
    spec = RunSpec(experiment="streets_uda", cell=cell, seed=0, config=config, data=data)
    settings = {
        "data_root": str(data_root),
        "results": str(results),
        "device": "cpu",
        "git": "none",
        "tracking": {"enabled": False, "uri": None, "folder": str(results)},
        **more,
    }
    return plan_row(spec, components, {"overrides": overrides}), settings


def tiny_model() -> ModelConfig:
    """A network of 0.8 million parameters, with batch normalisation and dropout."""
    return ModelConfig(encoder="tu-test_resnet", decoder="fpn", decoder_channels=32)


def maker(
    manifests: Mapping[str, Any], model_config: ModelConfig, new_folder: Callable[[], Path]
) -> Callable[..., SimpleNamespace]:
    """What the fixture `tiny_run` is; `new_folder` gives each run one."""
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
        group: Group = SINGLE,
        method_options: Mapping[str, Any] | None = None,
        encoding_options: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> SimpleNamespace:
        options = dict(encoding_options or {})
        if quality is not None:
            options["quality_threshold"] = quality
        encoder = build_encoding(encoding, options, manifests["streets_camera"].names)
        with seeded(WEIGHTS_SEED):
            model = build_model(
                replace(model_config, **SMALL_MODELS.get(method, {})), encoder.channels
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
        built = build_method(method, SMALL_METHODS.get(method, {}) | dict(method_options or {}))
        config = FitConfig(**fields)
        trainer = Trainer(
            config,
            model=model,
            encoding=encoder,
            method=built,
            device=cpu,
            seed=seed,
            folder=folder or new_folder(),
            group=group,
        )
        batches = config.labelled_batch, config.unlabelled_batch
        streams = build_streams(benchmark, manifests, built.streams, *batches)
        streams = [built.adapt(stream) for stream in streams]
        if double:
            # Scaling 8-bit images rounds differently with and without vector instructions.
            streams = [replace(s, transform=replace(s.transform, scale=None)) for s in streams]
            # Of images of single precision a blur's rounding would decide between close classes.
            losses = built.losses
            built.losses = lambda context, batch: losses(
                context,
                {name: replace(s, images=s.images.double()) for name, s in batch.items()},
            )

        def score(network):
            return evaluate(network, encoder, rows, benchmark.evaluation, cpu, group=group)

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
