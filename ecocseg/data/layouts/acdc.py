"""ACDC (Bernard et al., 2018): cardiac MRI slices as SSL4MIS prepared them, or the original files.

Source: HiLab-git/SSL4MIS, the copy that UniMatch links. Training reads single slices
(`slices/patient001_frame01_slice_1.h5`), evaluation the volumes (`patient001_frame01.h5`), each
with arrays `image` (0..1) and `label` (0 background, 1 right ventricle, 2 myocardium, 3 left
ventricle). A key is `patient001_frame01/01`: its folder is the volume, on which Dice is taken.

The challenge's training folder holds NIfTI files, of which every split reads slices. The two
annotated frames of a patient become 01 and 02, as in SSL4MIS, where frame 12 is frame02.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecocseg.data.layouts.base import Fault, Item, Listing, find
from ecocseg.data.volumes import volume_depth
from ecocseg.errors import DataError

TREE = """\
data/slices/patient001_frame01_slice_1.h5 ..., data/patient001_frame01.h5 ...
or the challenge's own patient001/patient001_frame01.nii.gz, patient001_frame01_gt.nii.gz ..."""
OPTIONS = frozenset({"volumes", "patients", "without", "exclude"})
"""`volumes`: true reads the volumes, else the slices (of NIfTI files both are the same).
`patients`: numbers such as "011" that the split has; `without`: those that it has not. `exclude`:
keys left out."""
_SLICE = re.compile(r"(patient(\d+)_frame\d+)_slice_(\d+)")
_VOLUME = re.compile(r"patient(\d+)_frame\d+")
_HDF5 = frozenset({".h5", ".hdf5"})
_FRAMES = 2  # end of diastole and end of systole


def recognises(root: Path, splits: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether `root` holds the folder of the slices, perhaps below `data`, or patients' folders.

    Of patients' folders some must be of a split: the challenge's test folder lies beside.
    """
    if (root / "data" / "slices").is_dir() or (root / "slices").is_dir():
        return True
    named = [number for options in splits.values() for number in options.get("patients") or ()]
    known = not named or any((root / f"patient{number}").is_dir() for number in named)
    return known and _original(root)


def _original(root: Path) -> bool:
    """Whether there are patients' folders with NIfTI files."""
    return next(root.glob("patient*/patient*_gt.nii*"), None) is not None


def key_of(text: str, options: Mapping[str, Any]) -> str:
    """`data/slices/patient099_frame01_slice_15.h5` -> `patient099_frame01/15`."""
    found = _SLICE.fullmatch(Path(text).stem)
    return f"{found[1]}/{int(found[3]):02d}" if found else text


def listing(root: Path, split: str, options: Mapping[str, Any]) -> Listing:
    """Find the slices of a split."""
    top = root / "data" if (root / "data").is_dir() else root
    excluded = {str(key) for key in options.get("exclude") or ()}
    if not (top / "slices").is_dir() and _original(root):
        items, faults = _scans(root, options)
    elif options.get("volumes"):
        items, faults = _volumes(top, options)
    else:
        items, faults = _slices(top, options)
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
    items: list[Item] = []
    faults: list[Fault] = []
    seen = set()
    for path in sorted(top.glob("patient*_frame*.h5")):
        match = _VOLUME.fullmatch(path.stem)
        if not match or not _wanted(match[1], options):
            continue
        seen.add(match[1])
        items += _parts(path.stem, path, path, faults)
    faults += _absent(seen, options, top, "patient{}_frame01.h5")
    return items, faults


def _scans(root: Path, options: Mapping[str, Any]) -> tuple[list[Item], list[Fault]]:
    """Slices of the challenge's own files."""
    items: list[Item] = []
    faults: list[Fault] = []
    seen = set()
    for folder in sorted(root.glob("patient*")):
        patient = folder.name.removeprefix("patient")
        if not folder.is_dir() or not _wanted(patient, options):
            continue
        seen.add(patient)
        labels = sorted(folder.glob(f"patient{patient}_frame*_gt.nii*"))
        if len(labels) != _FRAMES:
            faults.append(
                Fault(
                    str(folder),
                    f"has {len(labels)} annotated frames (*_gt.nii.gz), a patient has {_FRAMES}",
                    "unpack the folder again",
                )
            )
            continue
        for number, label in enumerate(labels, start=1):
            image = label.with_name(label.name.replace("_gt.nii", ".nii"))
            items += _parts(f"patient{patient}_frame{number:02d}", image, label, faults)
    faults += _absent(seen, options, root, "patient{}")
    return items, faults


def _parts(stem: str, image: Path, label: Path, faults: list[Fault]) -> list[Item]:
    """The slices of a volume, none and a fault when it cannot be read."""
    try:
        depth = volume_depth(image)
    except DataError as error:
        faults.append(Fault(str(image), str(error), "copy or download it again"))
        return []
    return [Item(f"{stem}/{place + 1:02d}", image, label, part=place) for place in range(depth)]


def _absent(seen: set[str], options: Mapping[str, Any], folder: Path, name: str) -> list[Fault]:
    """A fault for each patient that a split names and that is not there."""
    return [
        Fault(
            str(folder / name.format(patient)),
            "the volume is not there",
            "copy it again, or take the patient out of `patients`",
        )
        for patient in options.get("patients") or ()
        if str(patient) not in seen
    ]
