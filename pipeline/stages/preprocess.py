"""Stage `preprocess`: verifies the raw files of all data sets, then writes what training reads."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecocseg.data.config import DatasetConfig
from ecocseg.data.layouts import LAYOUTS, Fault
from ecocseg.data.manifest import Manifest, processed_dir
from ecocseg.data.prepare import is_prepared, prepare
from ecocseg.data.verify import SHOWN, verify_raw
from ecocseg.errors import DataError
from ecocseg.files import atomic_write
from pipeline.sources.progress import show_progress
from pipeline.sources.receipts import Receipt, fingerprint_raw, read_receipt

log = logging.getLogger(__name__)


def preprocess(params: Mapping[str, Any], datasets: Sequence[DatasetConfig]) -> None:
    """Verify all data sets, then prepare each that is not prepared yet.

    Raises DataError with the faults of all data sets (the first 50 of each; all of them are in
    `<data root>/processed/<name>.faults.txt`); then nothing is prepared.
    """
    root = Path(params["data"]["root"]).expanduser()
    workers = params["data"].get("workers")
    work = []
    messages = []
    for config in datasets:
        receipt = read_receipt(root, config.name)
        folder = processed_dir(root, config.name)
        report = folder.with_name(f"{config.name}.faults.txt")
        source = _source(config, receipt, root)
        if is_prepared(config, folder, source):
            log.info("%s: prepared already", config.name)
            report.unlink(missing_ok=True)
            continue
        with show_progress(f"verifying {config.name}") as progress:
            faults = verify_raw(config, receipt.folder(root), workers, progress)
        if faults:
            messages.append(_report(config, faults, report))
            continue
        report.unlink(missing_ok=True)
        work.append((config, receipt, folder, source))
    if messages:
        raise DataError("\n".join(messages))
    for config, receipt, folder, source in work:
        with show_progress(f"preparing {config.name}") as progress:
            manifest = prepare(
                config,
                receipt.folder(root),
                folder,
                source=source,
                partitions={name: root / path for name, path in receipt.partitions.items()},
                workers=workers,
                progress=progress,
                verified=True,
            )
        _tell(config, receipt, root, manifest)


def _source(config: DatasetConfig, receipt: Receipt, root: Path) -> str:
    """Fingerprint of the raw files as they are now, not as they were when fetched."""
    folder = receipt.folder(root)
    if not folder.is_dir():
        return ""
    digest, _, _ = fingerprint_raw(config, folder, times=receipt.kind == "local")
    lists = [
        (root / path).read_text() for path in receipt.partitions.values() if (root / path).is_file()
    ]
    return "\n".join([digest, *lists])


def _report(config: DatasetConfig, faults: Sequence[Fault], report: Path) -> str:
    """Write all faults to a file, and return the message with the first of them."""
    lines = [str(fault) for fault in faults]
    atomic_write(report, "\n".join(lines) + "\n")
    shown = "\n".join(f"  {line}" for line in lines[:SHOWN])
    more = f"\n  ... and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    count = f"{len(lines)} fault" + ("s" if len(lines) > 1 else "")
    return f"{config.name}: {count} in the data (all of them: {report})\n{shown}{more}"


def _tell(config: DatasetConfig, receipt: Receipt, root: Path, manifest: Manifest) -> None:
    """Log what was prepared, and what a person should know of it."""
    counts = ", ".join(f"{split} {count}" for split, count in manifest.splits.items())
    log.info("%s: %s images in %s", config.name, counts, manifest.folder)
    for split in manifest.splits:
        pixels = manifest.pixels(split)
        absent = [name for name, count in zip(manifest.names, pixels, strict=True) if not count]
        if absent and any(pixels):
            log.warning("%s: no pixel of %s in %s", config.name, ", ".join(absent), split)
    layout = LAYOUTS[config.layout]
    for split, options in config.splits.items():
        skipped = layout.listing(receipt.folder(root), split, options).skipped
        if skipped:
            log.warning(
                "%s: %d listed images of %s have no file and are left out (missing: skip)",
                config.name,
                skipped,
                split,
            )
