"""What every layout shares: items, faults, listing folders, pairing and split lists."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

IMAGE_EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm"})
LABEL_EXTENSIONS = frozenset({".png", ".tif", ".tiff", ".bmp", ".pgm"})
LIST_OPTIONS = frozenset({"list", "missing", "exclude"})
"""Split options of every layout.

`list`: a text file (in the data set's folder, or absolute), one image per line, of which only the
name counts. `missing`: `error` or `skip` for listed images that have no file at all. `exclude`:
keys left out, in quotes where they are digits (YAML reads 02154 as the number 1132).
"""
TRAIN_IDS_SUFFIX = "_labelTrainIds"
"""Of files that the published UDA code writes beside the labels of GTAv and SYNTHIA."""


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a data set, and how to mend it."""

    file: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}: {self.problem}; {self.remedy}"


@dataclass(frozen=True)
class Item:
    """One image and its label file (None: an image without labels)."""

    key: str
    image: Path
    label: Path | None
    second: Path | None = None
    """The later image of a pair, for change detection."""
    part: int | None = None
    """Number from 0 of the slice in files that hold a volume."""
    objects: str | None = None
    """Instances as JSON, of which the label is drawn (`ecocseg/data/instances.py`); then `label` is
    the file that they stand in."""


@dataclass(frozen=True)
class Listing:
    """The items of a split in order of their keys, and what was wrong in finding them."""

    items: tuple[Item, ...] = ()
    faults: tuple[Fault, ...] = ()
    skipped: int = 0
    """Listed images without any file, where `missing: skip` allows them."""


class Layout(Protocol):
    """What a module in `ecocseg/data/layouts` offers."""

    TREE: str
    """The expected folders and files, to be printed to the user."""
    OPTIONS: frozenset[str]
    """The options that a split of this layout takes."""

    def recognises(self, root: Path, splits: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether `root` looks like the top folder of this layout."""

    def listing(self, root: Path, split: str, options: Mapping[str, Any]) -> Listing:
        """Find the items of a split, without opening any image."""

    def key_of(self, text: str, options: Mapping[str, Any]) -> str:
        """Return the key that a line of a list file means."""


@dataclass
class Found:
    """Files of one folder by key."""

    folder: Path
    files: dict[str, Path] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


def walk(folder: Path) -> Iterator[Path]:
    """Yield the files below `folder` in order of their names, through links, without hidden ones.

    A link that leads back to a folder on the way is not followed again.
    """
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(parent, name)


def find(
    folder: Path,
    extensions: frozenset[str],
    suffix: str = "",
    whole_path: bool = False,
    without: str = "",
) -> Found:
    """Find the files of a folder by key: the name without `suffix` and extension.

    With `whole_path` the key keeps the folders below `folder`. Extensions count in either case;
    other files, and names that end in `without`, are passed over.
    """
    found = Found(folder)
    if not folder.is_dir():
        found.faults.append(
            Fault(str(folder), "the folder is not there", "check the data set's folder and splits")
        )
        return found
    for path in walk(folder):
        if path.suffix.lower() not in extensions or not path.stem.endswith(suffix):
            continue
        if without and path.stem.endswith(without):
            continue
        relative = path.relative_to(folder).with_suffix("") if whole_path else Path(path.stem)
        key = relative.as_posix().removesuffix(suffix)
        if key in found.files:
            found.faults.append(
                Fault(
                    str(path),
                    f"has the same key {key!r} as {found.files[key]}",
                    "rename or remove one of them",
                )
            )
        else:
            found.files[key] = path
    return found


def pair(
    images: Found, labels: Found | None, listed: Iterable[str] | None, options: Mapping[str, Any]
) -> Listing:
    """Pair images with labels by key; with `listed` only those keys count. `labels` None: none."""
    faults = [*images.faults, *(labels.faults if labels else ())]
    if any(fault.problem == "the folder is not there" for fault in faults):
        return Listing(faults=tuple(faults))
    known = images.files.keys() | (labels.files.keys() if labels else set())
    wanted = known if listed is None else set(listed)
    excluded = {str(key) for key in options.get("exclude") or ()}
    items, skipped = [], 0
    for key in sorted(wanted - excluded):
        image = images.files.get(key)
        label = labels.files.get(key) if labels else None
        if image is None and label is None and options.get("missing") == "skip":
            skipped += 1
        elif image is None:
            faults.append(
                Fault(
                    str(images.folder / key),
                    "the image is not there, and "
                    + ("its label is" if listed is None else "the split list names it"),
                    "copy it again, or leave it out with the split option `exclude`"
                    + ("" if listed is None else " (or `missing: skip` for all such)"),
                )
            )
        elif labels and label is None:
            faults.append(
                Fault(
                    str(image),
                    f"its label is not there (looked in {labels.folder})",
                    "copy the label again, or leave it out with the split option `exclude`",
                )
            )
        else:
            items.append(Item(key, image, label))
    return Listing(tuple(items), tuple(faults), skipped)


def with_keys(
    options: Mapping[str, Any], key_of: Callable[[str, Mapping[str, Any]], str]
) -> dict[str, Any]:
    """The options with what `exclude` names spelled as keys."""
    excluded = [key_of(str(name), options) for name in options.get("exclude") or ()]
    return {**options, "exclude": excluded}


def read_list(
    root: Path,
    options: Mapping[str, Any],
    key_of: Callable[[str, Mapping[str, Any]], str],
    default: str | None = None,
) -> tuple[list[str] | None, list[Fault]]:
    """Read the keys of the split's list; None when it has none. `default` may be absent."""
    name = options.get("list") or default
    if name is None:
        return None, []
    path = root / str(name)
    if not path.is_file():
        if not options.get("list"):
            return None, []
        return [], [Fault(str(path), "the split list is not there", "check the option `list`")]
    try:
        keys = keys_of_list(path.read_text(encoding="utf-8-sig"), options, key_of)
    except UnicodeDecodeError:
        return [], [Fault(str(path), "the split list is no text", "save it as UTF-8 text")]
    twice = sorted(key for key, count in Counter(keys).items() if count > 1)
    faults = [Fault(str(path), f"lists {key!r} twice", "drop one of the lines") for key in twice]
    return keys, faults


def keys_of_list(
    text: str, options: Mapping[str, Any], key_of: Callable[[str, Mapping[str, Any]], str]
) -> list[str]:
    """Keys in a list's text: one image a line, or an image and its label with a blank between."""
    keys = []
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        # Two words are image and label only if both look like files; else a name holds a blank.
        two = len(words) == 2 and all(Path(word).suffix for word in words)
        keys.append(key_of(words[0] if two else line.strip(), options))
    return keys


def find_root(
    folder: Path, layout: Layout, splits: Mapping[str, Mapping[str, Any]], depth: int = 2
) -> Path | None:
    """Return `folder`, or the first folder at most `depth` below it, that has the layout."""
    level = [folder]
    for _ in range(depth + 1):
        for candidate in level:
            if layout.recognises(candidate, splits):
                return candidate
        level = [
            child
            for parent in level
            if parent.is_dir()
            for child in sorted(parent.iterdir())
            if child.is_dir() and not child.name.startswith((".", "__MACOSX"))
        ]
        if len(level) > 200:
            break
    return None
