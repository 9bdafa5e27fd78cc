"""A data set's declared schema: what `pipeline/conf/dataset/<name>.yaml` holds."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ecocseg.data.classes import ClassTable, class_table
from ecocseg.data.layouts import LAYOUTS
from ecocseg.data.resize import RESIZES
from ecocseg.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_RAW_FIELDS = {
    "url": {"files", "register"},
    "local": {"path", "register"},
    "generate": {"generator", "domain", "counts", "height", "width", "seed"},
}
_RAW_REQUIRED = {"url": {"files"}, "local": set(), "generate": _RAW_FIELDS["generate"]}
LABEL_VALUES = ("ids", "colors", "first_channel")


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file to download: `sha256` None means that the first download's checksum is kept."""

    url: str
    sha256: str | None = None
    to: str = "."
    unpack: bool = False
    subfolder: str = ""
    """Of an archive only this folder is unpacked, and without its name."""

    def __post_init__(self) -> None:
        if not re.match(r"https?://[^/]+/.+", self.url):
            raise ConfigError(f"url: got {self.url!r}, allowed are http:// and https:// addresses")
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ConfigError(
                f"sha256: got {self.sha256!r} for {self.url}, allowed are 64 lower case "
                "hexadecimal digits, or null"
            )
        if Path(self.to).is_absolute() or ".." in Path(self.to).parts:
            raise ConfigError(f"to: got {self.to!r}, allowed are paths inside the data set")


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """One data set: where its files come from, how they lie, what their labels mean."""

    name: str
    layout: str
    classes: str | Mapping[str, Any]
    splits: Mapping[str, Mapping[str, Any]]
    """Split name -> options of the layout, and `evaluate: true` for a split that is scored."""
    raw: Mapping[str, Any] = field(default_factory=lambda: {"kind": "local"})
    source: str = ""
    """Name of the raw folder and of the entry in `data.sources`; the data set's name if empty."""
    size: tuple[int, int] | None = None
    """[H, W] in pixels at which training reads the images; None keeps them as they are."""
    keep_ratio: bool = False
    """Fit each image inside `size` instead of stretching it to `size`."""
    resize: str = "antialias"
    """How images and labels get their size: `antialias`, or `mmcv` as the published UDA code does
    (`ecocseg/data/resize.py` says how they differ)."""
    label_values: str = "ids"
    """What label files hold: numbers (`ids`), class colours (`colors`), or several channels of 8
    or 16 bits of which the first holds the number (`first_channel`)."""
    partitions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name -> {split, url, sha256, images}: published lists of labelled images, and how many each
    has."""
    images: Mapping[str, int] = field(default_factory=dict)
    """Published number of images of each split: for schedules in epochs, and to tell when some are
    missing."""

    def __post_init__(self) -> None:
        for label, value in (("name", self.name), ("source", self.source or self.name)):
            if not isinstance(value, str) or not _NAME.fullmatch(value):
                raise ConfigError(
                    f"{label}: got {value!r}, allowed are letters, digits and _ . - (it names a "
                    "folder)"
                )
        if self.layout not in LAYOUTS:
            raise self._wrong("layout", self.layout, ", ".join(LAYOUTS))
        if self.label_values not in LABEL_VALUES:
            raise self._wrong("label_values", self.label_values, ", ".join(LABEL_VALUES))
        if self.resize not in RESIZES:
            raise self._wrong("resize", self.resize, ", ".join(RESIZES))
        if not isinstance(self.keep_ratio, bool):
            raise self._wrong("keep_ratio", self.keep_ratio, "true or false")
        if self.size is not None and not (
            len(self.size) == 2
            and all(isinstance(side, int) and 8 <= side <= 16384 for side in self.size)
        ):
            raise self._wrong("size", list(self.size), "null, or [height, width] of 8 to 16384")
        object.__setattr__(self, "table", class_table(self.classes))
        self._check_splits(LAYOUTS[self.layout].OPTIONS)
        self._check_raw()
        for name, entry in self.partitions.items():
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise self._wrong("partitions", name, 'names as "1_8", in quotes (YAML reads 18)')
            if entry.get("split") not in self.splits:
                raise self._wrong(
                    f"partitions.{name}.split", entry.get("split"), ", ".join(self.splits)
                )
        self.partition_files()

    table: ClassTable = field(init=False, repr=False, compare=False)
    """The class table that `classes` names or writes out."""

    def _wrong(self, name: str, value: Any, allowed: str) -> ConfigError:
        return ConfigError(
            f"{name}: got {value!r} in data set {self.name!r}, allowed: {allowed}; mend it in the "
            "data set's YAML"
        )

    def _check_splits(self, options: frozenset[str]) -> None:
        if not self.splits:
            raise self._wrong("splits", dict(self.splits), "at least one split")
        for name, split in self.splits.items():
            if not _NAME.fullmatch(str(name)):
                raise self._wrong("splits", name, "names of letters, digits and _ . -")
            for option, value in split.items():
                if option not in options | {"evaluate"}:
                    raise self._wrong(
                        f"splits.{name}", option, ", ".join(sorted(options | {"evaluate"}))
                    )
                if option == "exclude":
                    self._check_excluded(name, value)
                if option == "evaluate" and not isinstance(value, bool):
                    raise self._wrong(f"splits.{name}.evaluate", value, "true or false")

    def _check_excluded(self, split: str, value: Any) -> None:
        keys = value if isinstance(value, (list, tuple)) else [value]
        if value is None or (keys is value and all(isinstance(key, str) for key in keys)):
            return
        # 02154 is read as an octal number: another frame than the one that was meant.
        wrong = next((key for key in keys if not isinstance(key, str)), value)
        raise self._wrong(
            f"splits.{split}.exclude", wrong, 'a list of keys, each in quotes, as ["02154"]'
        )

    def _check_raw(self) -> None:
        kind = self.raw.get("kind")
        if kind not in _RAW_FIELDS:
            raise self._wrong("raw.kind", kind, ", ".join(_RAW_FIELDS))
        unknown = sorted(set(self.raw) - _RAW_FIELDS[kind] - {"kind"})
        if unknown:
            raise self._wrong("raw", unknown[0], ", ".join(sorted(_RAW_FIELDS[kind])))
        missing = sorted(_RAW_REQUIRED[kind] - set(self.raw))
        if missing:
            raise self._wrong(f"raw.{missing[0]}", None, "a value")
        self.remote_files()

    @property
    def raw_name(self) -> str:
        """Name of the raw folder, shared by data sets that read the same files."""
        return self.source or self.name

    @property
    def kind(self) -> str:
        """How the raw files are brought: url, local or generate."""
        return str(self.raw["kind"])

    def expected(self, split: str) -> int | None:
        """Images that a split should have; None where nobody says."""
        counts = self.raw["counts"] if self.kind == "generate" else self.images
        return counts.get(split)

    def evaluated(self, split: str) -> bool:
        """Whether the labels of a split keep their original size, to be scored on."""
        return bool(self.splits[split].get("evaluate", False))

    def remote_files(self) -> tuple[RemoteFile, ...]:
        """Return the files of a data set of kind `url`, else nothing."""
        if self.kind != "url":
            return ()
        return tuple(_from_mapping(RemoteFile, "raw.files", item) for item in self.raw["files"])

    def partition_files(self) -> dict[str, RemoteFile]:
        """Return partition name -> the list to download."""
        return {
            name: _from_mapping(
                RemoteFile,
                f"partitions.{name}",
                {k: v for k, v in entry.items() if k not in ("split", "images")},
            )
            for name, entry in self.partitions.items()
        }

    def digest(self) -> str:
        """Hash of everything that decides what preparation writes, as 64 hexadecimal digits."""
        plain = {
            item.name: getattr(self, item.name)
            for item in fields(self)
            if item.init and item.name not in ("raw", "source", "classes", "images")
        }
        plain["partitions"] = {
            name: {key: value for key, value in entry.items() if key != "images"}
            for name, entry in self.partitions.items()
        }
        plain["ids"] = sorted(self.table.ids.items())
        plain["names"] = self.table.names
        plain["colors"] = (self.table.colors, self.table.ignore_colors)
        return hashlib.sha256(json.dumps(plain, sort_keys=True, default=list).encode()).hexdigest()

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> "DatasetConfig":
        """Make one from plain data (a YAML file's); raises ConfigError, naming the field."""
        plain = dict(mapping)
        if plain.get("size") is not None:
            if not isinstance(plain["size"], (list, tuple)):
                raise ConfigError(f"size: got {plain['size']!r}, allowed: null or [height, width]")
            plain["size"] = tuple(plain["size"])
        if isinstance(plain.get("splits"), Mapping):
            plain["splits"] = {name: dict(split or {}) for name, split in plain["splits"].items()}
        return _from_mapping(cls, "dataset", plain)


def _from_mapping(cls: Any, where: str, mapping: Mapping[str, Any]) -> Any:
    """Build a configuration dataclass, refusing unknown and missing fields by name."""
    known = [item for item in fields(cls) if item.init]
    names = {item.name for item in known}
    unknown = sorted(set(mapping) - names)
    if unknown:
        raise ConfigError(
            f"{where}: unknown field {unknown[0]!r}; allowed are {', '.join(sorted(names))}"
        )
    try:
        return cls(**mapping)
    except TypeError as error:
        missing = str(error).rpartition(":")[2].strip()
        raise ConfigError(f"{where}: fields missing: {missing}; add them") from None
