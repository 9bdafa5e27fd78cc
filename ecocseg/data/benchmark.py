"""A benchmark: which images are labelled, unlabelled and evaluated, and how they are cropped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from ecocseg.config import require
from ecocseg.data.config import DatasetConfig
from ecocseg.data.dataset import Stream
from ecocseg.data.manifest import Manifest, Row
from ecocseg.data.noise import LabelNoise
from ecocseg.data.partition import PartitionConfig, split_keys
from ecocseg.data.transforms import TransformConfig
from ecocseg.engine.evaluate import EvaluationConfig
from ecocseg.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Images of a prepared data set."""

    dataset: str
    split: str = "train"
    part: Literal["all", "labelled", "rest"] = "all"
    """all images of the split, or one side of its partition."""
    partition: PartitionConfig = field(default_factory=PartitionConfig)
    limit: int | None = None
    """The first so many images only; a quick look, not a protocol."""
    noise: LabelNoise | None = None
    """Of the labelled images' labels some are wrong, as training reads them; None for none."""

    def __post_init__(self) -> None:
        require(self.limit is None or self.limit > 0, "limit", self.limit, "null or 1 or more")


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Data and protocol of a run."""

    name: str
    labelled: SourceConfig
    evaluated: SourceConfig
    labelled_transform: TransformConfig
    unlabelled: SourceConfig | None = None
    unlabelled_transform: TransformConfig | None = None
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        if (self.unlabelled is None) != (self.unlabelled_transform is None):
            raise ConfigError("unlabelled and unlabelled_transform go together: give both or none")
        for name in ("unlabelled", "evaluated"):
            noise = getattr(getattr(self, name), "noise", None)
            require(noise is None, f"{name}.noise", noise, "null: noise is for labelled.noise")

    @property
    def datasets(self) -> list[str]:
        """Names of the data sets it needs, each once."""
        sources = (self.labelled, self.unlabelled, self.evaluated)
        return list(dict.fromkeys(s.dataset for s in sources if s is not None))


def source_rows(source: SourceConfig, manifests: Mapping[str, Manifest]) -> list[Row]:
    """The rows that `source` names, in the manifest's order.

    Raises ConfigError when the split is not there or no image is left.
    """
    manifest = manifests[source.dataset]
    rows = manifest.rows(source.split)
    if source.part != "all":
        name = source.partition.published
        published = manifest.partition(name) if name is not None else None
        labelled, rest = split_keys([row.key for row in rows], source.partition, published)
        wanted = set(labelled if source.part == "labelled" else rest)
        rows = [row for row in rows if row.key in wanted]
    if not rows:
        raise ConfigError(
            f"{source.dataset}/{source.split}: no image is left in the part {source.part!r} of "
            f"the partition {source.partition.fraction!r}; choose another fraction or list"
        )
    return rows[: source.limit]


def expected_images(source: SourceConfig, dataset: DatasetConfig) -> int | None:
    """How many images a source has by what its data set declares; None where it does not say.

    Of a user's own list of labelled images nothing is declared.
    """
    total = dataset.expected(source.split)
    if source.part != "all" and total is not None:
        partition = source.partition
        if partition.published is not None:
            labelled = dataset.partitions.get(partition.published, {}).get("images")
        elif partition.list_file is not None:
            labelled = None
        else:
            labelled = round(total * Fraction(partition.fraction))
        if labelled is None:
            return None
        total = labelled if source.part == "labelled" else total - labelled
    if total is None or source.limit is None:
        return total
    return min(total, source.limit)


def build_streams(
    benchmark: BenchmarkConfig,
    manifests: Mapping[str, Manifest],
    names: Sequence[str],
    labelled_batch: int,
    unlabelled_batch: int,
) -> list[Stream]:
    """The streams that a method reads.

    Raises ConfigError when a method reads unlabelled images and there are none, when labelled and
    evaluated data sets differ in their classes, and when labels do not lie on their images.
    """
    taught = manifests[benchmark.labelled.dataset].names
    scored = manifests[benchmark.evaluated.dataset].names
    if list(taught) != list(scored):
        raise ConfigError(
            f"benchmark.labelled.dataset {benchmark.labelled.dataset!r} has the classes "
            f"{list(taught)}, benchmark.evaluated.dataset {benchmark.evaluated.dataset!r} has "
            f"{list(scored)}: prepare both with one class table"
        )
    streams = []
    for name in names:
        if name == "labelled":
            rows = source_rows(benchmark.labelled, manifests)
            if odd := next((row for row in rows if row.image_size != row.label_size), None):
                raise ConfigError(
                    f"benchmark.labelled.split: got {odd.split!r}, whose labels keep their own "
                    f"size ({odd.key}: image {odd.image_size}, label {odd.label_size}); train on "
                    "a split without `evaluate: true` in the data set's YAML"
                )
            streams.append(
                Stream(
                    name=name,
                    rows=rows,
                    batch_size=labelled_batch,
                    transform=benchmark.labelled_transform,
                    names=taught,
                    noise=benchmark.labelled.noise,
                )
            )
            continue
        if benchmark.unlabelled is None or benchmark.unlabelled_transform is None:
            raise ConfigError(
                f"benchmark.unlabelled: the method reads the stream {name!r} and benchmark "
                f"{benchmark.name!r} has no unlabelled images; name some"
            )
        require(
            unlabelled_batch > 0,
            "schedule.unlabelled_batch",
            unlabelled_batch,
            f"1 or more: the method reads the stream {name!r}",
        )
        streams.append(
            Stream(
                name=name,
                rows=source_rows(benchmark.unlabelled, manifests),
                batch_size=unlabelled_batch,
                transform=benchmark.unlabelled_transform,
                labelled=False,
            )
        )
    return streams
