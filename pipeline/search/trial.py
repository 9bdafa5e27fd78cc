"""One trial of the search: runs of one or several seeds with other hyperparameters, scored as they
go."""

import copy
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecocseg.engine import checkpoint
from ecocseg.engine.evaluate import overall_score
from ecocseg.engine.events import CheckpointEvent, EvaluationEvent
from ecocseg.errors import DataError
from pipeline.config.run_spec import RunSpec
from pipeline.machine.environment import pick_device
from pipeline.runner.run import LAST, STAGES, Prepared


def objective(
    row: Mapping[str, Any], values: Mapping[str, Any], settings: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield `step`, `miou` (the protocol's score, percent) and `std` after each evaluation.

    The score is of `settings["network"]` (student or teacher), its mean over `settings["seeds"]`;
    `std` is None for one seed. The seeds take turns from one evaluation to the next, so that every
    score is the mean at one step and no more than one network is in memory. `values`:
    "encoding.threshold" -> value. A trial that was interrupted goes on from the checkpoints in
    `settings["trial_dir"]` and yields its earlier scores first.
    """
    spec = with_values(row["spec"], values)
    seeds: Sequence[int] = settings["seeds"]
    turns = [
        _scores({**spec, "seed": seed}, settings, Path(settings["trial_dir"]) / f"seed{seed}")
        for seed in seeds
    ]
    for found in zip(*turns, strict=True):
        scores = [score["miou"] for score in found]
        yield {
            "step": found[0]["step"],
            "miou": statistics.fmean(scores),
            "std": statistics.stdev(scores) if len(scores) > 1 else None,
        }


def _scores(
    spec: Mapping[str, Any], settings: Mapping[str, Any], folder: Path
) -> Iterator[dict[str, Any]]:
    """The scores of one seed, each on the disk with its checkpoint before it is yielded."""
    path, alone = folder / LAST, len(settings["seeds"]) == 1
    told, finished = 0, False
    while not finished:
        run = Prepared(
            RunSpec.from_dict(spec), Path(settings["data_root"]), pick_device(settings["device"])
        )
        trainer = run.trainer(folder / STAGES)
        scores: list[dict[str, Any]] = []
        if (state := _stored(path)) is not None:
            trainer.restore(state["trainer"])
            scores = state["scores"]
        while told < len(scores):
            told += 1
            yield scores[told - 1]
        events = run.events(trainer) if trainer.step < trainer.config.steps else iter(())
        for event in events:
            if isinstance(event, EvaluationEvent):
                evaluation, names = run.components.benchmark.evaluation, run.manifest.names
                confusion = event.confusions[settings["network"]]
                found = overall_score(confusion, evaluation, names)
                scores.append({"step": event.step, "miou": found})
            elif not isinstance(event, CheckpointEvent):
                continue
            checkpoint.save(path, {"trainer": trainer.state(), "scores": scores})
            if len(scores) > told and event.step < trainer.config.steps:
                if not alone:
                    break
                told += 1
                yield scores[-1]
        finished = trainer.step >= trainer.config.steps
        # Another seed's turn; and after the last score nobody asks for more, so that what stages
        # leave has to be gone by then.
        del run, trainer, events, state
        while told < len(scores):
            told += 1
            yield scores[told - 1]


def _stored(path: Path) -> dict[str, Any] | None:
    """The checkpoint; None where there is none that can be read: the run begins anew."""
    try:
        return checkpoint.load(path) if path.is_file() else None
    except DataError:
        return None


def with_values(spec: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a plain specification with values at dotted paths replaced."""
    changed: dict[str, Any] = copy.deepcopy(dict(spec))
    for path, value in values.items():
        *parents, name = path.split(".")
        node = changed
        for parent in parents:
            node = node[parent]
        node[name] = value
    return changed
