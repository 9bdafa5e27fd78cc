"""Slices of volumes: HDF5 files as SSL4MIS writes them, and NIfTI files."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecocseg.errors import DataError

_HDF5, _NIFTI = (".h5", ".hdf5"), (".nii", ".nii.gz")


def is_volume(path: Path) -> bool:
    """Whether a file's name says that it holds a volume, or a slice of one in HDF5."""
    return path.name.lower().endswith(_HDF5 + _NIFTI)


def volume_depth(path: Path) -> int:
    """Number of slices of a volume; DataError when it cannot be read or is none."""
    shape: Sequence[int]
    try:
        if path.name.lower().endswith(_NIFTI):
            import nibabel

            scan: Any = nibabel.load(path)
            shape = scan.shape[::-1]
        else:
            import h5py

            with h5py.File(path, "r") as file:
                shape = file["image"].shape
    except Exception as error:
        # nibabel raises whatever its parser stumbles over.
        raise DataError(f"cannot be read as a volume ({error})") from error
    if len(shape) != 3:
        raise DataError(f"has {len(shape)} dimensions where a volume has 3")
    return int(shape[0])


def read_grey(path: Path, part: int | None) -> NDArray[np.uint8]:
    """The image of a slice, [H,W], 0 to 255; DataError when it cannot be read.

    SSL4MIS brings each volume to 0..1 by its smallest and largest value, and UniMatch's code rounds
    that down to 8 bits; of a NIfTI file both is done here.
    """
    if path.name.lower().endswith(_NIFTI):
        volume = _nifti(path, path.stat().st_mtime_ns)
        low, high = float(volume.min()), float(volume.max())
        found = (_slice(volume, part) - low) / ((high - low) or 1.0)
    else:
        found = _hdf5(path, "image", part)
    return (found.clip(0, 1) * 255).astype(np.uint8)


def read_classes(path: Path, part: int | None) -> NDArray[np.int64]:
    """The label of a slice, [H,W]; DataError when it cannot be read."""
    if path.name.lower().endswith(_NIFTI):
        return _slice(_nifti(path, path.stat().st_mtime_ns), part).astype(np.int64)
    return _hdf5(path, "label", part).astype(np.int64)


def _hdf5(path: Path, name: str, part: int | None) -> NDArray[Any]:
    """A slice [H,W] of the array `name`."""
    # Imported here: only this format needs it, and workers start faster without.
    import h5py

    try:
        with h5py.File(path, "r") as file:
            if name not in file:
                raise DataError(f"holds no array {name!r}, only {', '.join(file) or 'nothing'}")
            array = file[name]
            found = np.asarray(array if part is None else array[part])
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read as HDF5 ({error})") from error
    if found.ndim != 2:
        raise DataError(f"its array {name!r} has {found.ndim} dimensions where a slice has 2")
    return found


@lru_cache(maxsize=4)
def _nifti(path: Path, stamp: int) -> NDArray[Any]:
    """A volume [D,H,W] of a file whose time is `stamp`; kept, as its slices follow each other."""
    import nibabel

    try:
        scan: Any = nibabel.load(path)
        volume = np.asarray(scan.dataobj)
    except Exception as error:
        raise DataError(f"cannot be read as NIfTI ({error})") from error
    if volume.ndim != 3:
        raise DataError(f"has {volume.ndim} dimensions where a volume has 3")
    # Stored as [W,H,D]; SSL4MIS reads it by SimpleITK, which turns the axes round.
    return volume.T


def _slice(volume: NDArray[Any], part: int | None) -> NDArray[Any]:
    if part is None or part >= len(volume):
        raise DataError(f"has {len(volume)} slices, one at place {part} is wanted")
    found: NDArray[Any] = volume[part]
    return found
