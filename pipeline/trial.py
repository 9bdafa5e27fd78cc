"""One trial of the search: a run with other hyperparameters, scored as it goes."""

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ecocseg.engine import checkpoint
from ecocseg.engine.evaluate import overall_score
from ecocseg.engine.events import CheckpointEvent, EvaluationEvent
from pipeline.environment import pick_device
from pipeline.run import LAST, STAGES, Prepared
from pipeline.spec import RunSpec


def objective(
    row: Mapping[str, Any], overrides: Mapping[str, Any], settings: Mapping[str, Any]
) -> Iterator[dict[str, float]]:
    """Yield `step` and the student's `miou` (the protocol's score, percent) after each evaluation.

    `overrides`: "encoding.threshold" -> value. A trial that was interrupted goes on from the
    checkpoint in `settings["trial_dir"]` and yields its earlier scores first.
    """
    spec = RunSpec.from_dict(with_values(row["spec"], overrides))
    run = Prepared(spec, Path(settings["data_root"]), pick_device(settings["device"]))
    folder = Path(settings["trial_dir"])
    trainer = run.trainer(folder / STAGES)
    path = folder / LAST
    scores: list[dict[str, float]] = []
    if path.is_file():
        state = checkpoint.load(path)
        trainer.restore(state["trainer"])
        scores = state["scores"]
    yield from scores
    if trainer.step >= trainer.config.steps:
        return
    for event in run.events(trainer):
        if isinstance(event, EvaluationEvent):
            found = overall_score(
                event.confusions["student"],
                run.components.benchmark.evaluation,
                run.manifest.names,
            )
            score = {"step": event.step, "miou": found}
            scores.append(score)
            if event.step < trainer.config.steps:
                yield score
        elif isinstance(event, CheckpointEvent):
            checkpoint.save(path, {"trainer": event.state, "scores": scores})
    # Nobody asks for more after the last score: what stages left is gone by then.
    yield scores[-1]


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
