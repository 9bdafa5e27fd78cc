"""A run's data, encoding, network and protocol, built from its specification."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ecocseg.data.benchmark import build_streams, source_rows
from ecocseg.data.manifest import Manifest, load_manifest, processed_dir
from ecocseg.encodings import build_encoding
from ecocseg.encodings.base import Encoding
from ecocseg.engine.distributed import current_group
from ecocseg.engine.evaluate import evaluate
from ecocseg.engine.fit import Trainer
from ecocseg.engine.seed import seeded
from ecocseg.errors import ConfigError, DataError
from ecocseg.methods import build_method
from ecocseg.models.segmenter import build_model
from pipeline.config.run_spec import Components, RunSpec, validate


class Prepared:
    """A run's data, encoding and trainer, built from its specification."""

    def __init__(self, spec: RunSpec, data_root: Path, device: torch.device) -> None:
        self.spec = spec
        self.components: Components = validate(spec.config)
        self.device = device
        benchmark = self.components.benchmark
        self.manifests = {
            name: _checked_manifest(data_root, name, spec.data.get(name))
            for name in benchmark.datasets
        }
        self.manifest: Manifest = self.manifests[benchmark.evaluated.dataset]
        self.rows = source_rows(benchmark.evaluated, self.manifests)
        benchmark.evaluation.places(self.manifest.names)
        encoding = dict(spec.config["encoding"])
        self.encoding: Encoding = build_encoding(
            encoding.pop("name"), encoding, self.manifest.names
        )
        method = dict(spec.config["method"])
        self.method = build_method(method.pop("name"), method)
        # The first weights depend on the seed alone, so that cells of one seed compare.
        with seeded(spec.seed, "weights"):
            self.model = build_model(self.components.model, self.encoding.channels)
        if self.rows[0].frames != self.model.frames:
            raise ConfigError(
                f"model.decoder: got {self.components.model.decoder!r}, which takes images of "
                f"{self.model.frames} frame(s); those of benchmark.evaluated.dataset "
                f"{benchmark.evaluated.dataset!r} have {self.rows[0].frames}; pairs go with "
                "pspnet_siamese, and nothing else does"
            )

    def trainer(self, folder: Path, steps: int | None = None) -> Trainer:
        """The trainer over the schedule, or over `steps` steps; stages use the `folder`.

        It is one of torch's process group, if there is one.
        """
        schedule = self.components.schedule
        if steps is not None:
            steps = max(steps, self.method.least_steps)
            schedule = replace(
                schedule, steps=steps, log_every=1, evaluate_every=steps, checkpoint_every=steps
            )
        return Trainer(
            schedule,
            model=self.model,
            encoding=self.encoding,
            method=self.method,
            device=self.device,
            seed=self.spec.seed,
            folder=folder,
            group=current_group(),
        )

    def events(self, trainer: Trainer, images: int | None = None) -> Any:
        """Iterate the trainer's events; evaluated and labelled are the first `images` or all."""
        schedule = self.components.schedule
        streams = build_streams(
            self.components.benchmark,
            self.manifests,
            self.method.streams,
            schedule.labelled_batch,
            schedule.unlabelled_batch,
        )
        streams = [self.method.adapt(stream) for stream in streams]
        if images is not None and self.method.restarts:
            # A look at the run: its stages need not rank and label every image.
            streams = [replace(s, rows=s.rows[: max(images, s.batch_size)]) for s in streams]
        return trainer.fit(
            streams,
            lambda model: evaluate(
                model,
                self.encoding,
                self.rows[:images],
                self.components.benchmark.evaluation,
                self.device,
                trainer.autocast,
                trainer.group,
            ),
        )

    def network(self) -> dict[str, Any]:
        """What the network costs for one labelled crop: parameters, macs, size."""
        # Imported here: it imports the model libraries, which a run has done by now.
        from ecocseg.models.cost import network_cost

        size = self.components.benchmark.labelled_transform.crop
        cost = network_cost(self.components.model, self.encoding.channels, size)
        return {"parameters": cost.parameters, "macs": cost.macs, "size": list(size)}

    def protocol(self) -> dict[str, Any]:
        """What a score must share with another one to be compared with it."""
        evaluated = self.components.benchmark.evaluated
        evaluation = self.spec.config["benchmark"]["evaluation"]
        return {
            "dataset": evaluated.dataset,
            "split": evaluated.split,
            "images": len(self.rows),
            # How many images at a time is a matter of speed.
            **{k: v for k, v in evaluation.items() if k != "batch_size"},
            "image_size": list(self.manifest.size or ()) or "original",
            "label_size": "original" if self._original_labels() else "stored",
            "fingerprint": self.manifest.fingerprint,
        }

    def _original_labels(self) -> bool:
        """Whether the evaluated split was prepared with its labels at their own size."""
        return all(row.label_size == row.raw_size for row in self.rows)


def _checked_manifest(data_root: Path, name: str, fingerprint: str | None) -> Manifest:
    manifest = load_manifest(processed_dir(data_root, name))
    if manifest.fingerprint != fingerprint:
        raise DataError(
            f"{manifest.folder}: the prepared data is not what the run was planned with "
            f"({manifest.fingerprint[:12]} instead of {(fingerprint or 'none')[:12]}); run "
            "`dvc repro plan` for a plan with the present data"
        )
    return manifest
