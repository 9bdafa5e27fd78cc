"""ACDC (Bernard et al., 2018): cardiac MRI slices as SSL4MIS prepared them, in HDF5 files.

Source: HiLab-git/SSL4MIS, the copy that UniMatch links. Training reads single slices
(`slices/patient001_frame01_slice_1.h5`), evaluation the volumes (`patient001_frame01.h5`), each
with arrays `image` (0..1) and `label` (0 background, 1 right ventricle, 2 myocardium, 3 left
ventricle). A key is `patient001_frame01/01`: its folder is the volume, on which Dice is taken.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecocseg.data.layouts.base import Fault, Item, Listing, find

TREE = """\
data/slices/patient001_frame01_slice_1.h5 ..., data/patient001_frame01.h5 ..."""
OPTIONS = frozenset({"volumes", "patients", "without", "exclude"})
"""`volumes`: true reads the volumes, else the slices. `patients`: numbers such as "011" that the
split has; `without`: those that it has not. `exclude`: keys left out."""
_SLICE = re.compile(r"(patient(\d+)_frame\d+)_slice_(\d+)")
_VOLUME = re.compile(r"patient(\d+)_frame\d+")
_HDF5 = frozenset({".h5", ".hdf5"})


def recognises(root: Path, splits: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether `root` holds the folder of the slices, perhaps below `data`."""
    return (root / "data" / "slices").is_dir() or (root / "slices").is_dir()


def key_of(text: str, options: Mapping[str, Any]) -> str:
    """`data/slices/patient099_frame01_slice_15.h5` -> `patient099_frame01/15`."""
    found = _SLICE.fullmatch(Path(text).stem)
    return f"{found[1]}/{int(found[3]):02d}" if found else text


def listing(root: Path, split: str, options: Mapping[str, Any]) -> Listing:
    """Find the slices of a split."""
    top = root / "data" if (root / "data").is_dir() else root
    excluded = {str(key) for key in options.get("exclude") or ()}
    items, faults = _volumes(top, options) if options.get("volumes") else _slices(top, options)
    kept = [item for item in items if item.key not in excluded]
    return Listing(tuple(sorted(kept, key=lambda item: item.key)), tuple(faults))


def _wanted(patient: str, options: Mapping[str, Any]) -> bool:
    """Whether a split has a patient."""
    chosen, without = options.get("patients"), options.get("without") or ()
    named = chosen is None or patient in {str(number) for number in chosen}
    return named and patient not in {str(number) for number in without}


def _slices(top: Path, options: Mapping[str, Any]) -> tuple[list[Item], list[Fault]]:
    found = find(top / "slices", _HDF5)
    items = []
    for stem, path in found.files.items():
        match = _SLICE.fullmatch(stem)
        if match and _wanted(match[2], options):
            items.append(Item(key_of(stem, options), path, path))
    return items, found.faults


def _volumes(top: Path, options: Mapping[str, Any]) -> tuple[list[Item], list[Fault]]:
    items, faults, seen = [], [], set()
    for path in sorted(top.glob("patient*_frame*.h5")):
        match = _VOLUME.fullmatch(path.stem)
        if not match or not _wanted(match[1], options):
            continue
        seen.add(match[1])
        try:
            depth = _depth(path)
        except (OSError, KeyError) as error:
            faults.append(
                Fault(str(path), f"cannot be read as HDF5 ({error})", "copy or download it again")
            )
            continue
        items += [
            Item(f"{path.stem}/{place + 1:02d}", path, path, part=place) for place in range(depth)
        ]
    for patient in options.get("patients") or ():
        if str(patient) not in seen:
            faults.append(
                Fault(
                    str(top / f"patient{patient}_frame01.h5"),
                    "the volume is not there",
                    "copy it again, or take the patient out of `patients`",
                )
            )
    return items, faults


def _depth(path: Path) -> int:
    """Slices of a volume."""
    import h5py

    with h5py.File(path, "r") as file:
        return int(file["image"].shape[0])
