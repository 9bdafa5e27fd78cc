"""Stage `search`: hyperparameters of one cell with Ray Tune (Optuna's TPE and ASHA)."""

from typing import Any

from ecocseg.config import unknown
from ecocseg.errors import ConfigError
from pipeline.cluster.launcher import ended_with_launcher
from pipeline.cluster.search import search
from pipeline.cluster.session import ClusterConfig, connect
from pipeline.cluster.space import parse_space
from pipeline.compose import load_yaml
from pipeline.locks import RunLock
from pipeline.params import Params
from pipeline.planning import fingerprint, search_cell
from pipeline.spec import RunSpec, validate
from pipeline.stages.train import RESULTS, announce, resources, run_settings
from pipeline.trial import with_values


@ended_with_launcher()
def run(params: Params) -> None:
    """Search, and write results/search/trials.csv and best.yaml."""
    config, components = search_cell(params)
    space = load_yaml("search", params.search.space)
    parse_space(space)
    check_space(params.search.space, space, config)
    data = {name: fingerprint(params, name, True) for name in components.benchmark.datasets}
    spec = RunSpec(
        experiment="search",
        cell=f"{params.search.experiment}-{params.search.cell}",
        seed=params.search.seed,
        config=config,
        data=data,
    )
    row = {"run_id": spec.run_id, "spec": spec.to_dict()}
    settings = run_settings(params)
    schedule = components.schedule
    lock = RunLock(RESULTS / "search" / ".lock", wait_s=40, announce=announce)
    with lock, connect(ClusterConfig(address=params.cluster.address)):
        found = search(
            "pipeline.trial:objective",
            space,
            row,
            settings,
            trials=params.search.trials,
            max_concurrent=params.search.max_concurrent,
            seed=params.search.seed,
            storage=RESULTS / "search",
            resources=resources(params, row),
            max_steps=schedule.steps,
            grace_steps=min(schedule.evaluate_every, schedule.steps),
        )
    print(f"best of {params.search.trials} trials: {found.best.miou:.2f} mIoU with")
    for override in found.overrides:
        print(f"  {override}")
    print(f"{RESULTS / 'search' / 'best.yaml'} holds it: copy its overrides into params.yaml")


def check_space(name: str, space: dict[str, Any], config: dict[str, Any]) -> None:
    """Raise ConfigError when a searched parameter is no field of the cell's configuration."""
    for path, entry in space.items():
        node: Any = config
        for part in path.split("."):
            if not isinstance(node, dict) or part not in node:
                allowed = list(node) if isinstance(node, dict) else []
                raise ConfigError(
                    unknown(f"pipeline/conf/search/{name}.yaml: {path}", "field", part, allowed)
                )
            node = node[part]
        bounds = [entry[key] for key in ("low", "high") if key in entry]
        for value in [*bounds, *entry.get("values", [])]:
            # The end points of a range are within the limits, or no trial should start.
            validate(with_values(config, {path: value}))
