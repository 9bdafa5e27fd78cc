"""What each command of `ecocseg` does; imported only when a command runs."""

import argparse
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

from ecocseg.config import unknown
from ecocseg.data.config import DatasetConfig
from ecocseg.errors import ConfigError, DataError
from pipeline.config.params import Params, is_params_override, load_params
from pipeline.store.paths import RESULTS


def fetch(options: argparse.Namespace) -> None:
    """Stage fetch."""
    from pipeline.stages import fetch as stage

    params, datasets = _datasets(options)
    stage.fetch(asdict(params), datasets)


def preprocess(options: argparse.Namespace) -> None:
    """Stage preprocess."""
    from pipeline.stages import preprocess as stage

    params, datasets = _datasets(options)
    stage.preprocess(asdict(params), datasets)


def plan(options: argparse.Namespace) -> None:
    """Stage plan, or a look at it."""
    # The stage takes seconds to import: a typo is told before.
    params = _params(options)
    from pipeline.stages import plan as stage

    if options.search:
        stage.write_search_inputs(params)
    else:
        stage.run(params, write=options.out)


def train(options: argparse.Namespace) -> None:
    """One run in this process."""
    params = _params(options, runs=False)
    from pipeline.stages import single

    single.run(params, _run_overrides(options))


def grid(options: argparse.Namespace) -> None:
    """Stage train."""
    _only_settings(options)
    params = _params(options)
    from pipeline.stages import train as stage

    stage.run(params)


def search(options: argparse.Namespace) -> None:
    """Stage search."""
    params = _params(options)
    from pipeline.stages import search as stage

    stage.run(params)


def status(options: argparse.Namespace) -> None:
    """The grid at a glance."""
    from pipeline.monitor.view import show

    show(
        RESULTS, options.filters, everything=options.all, watch=options.watch, as_json=options.json
    )


def logs(options: argparse.Namespace) -> None:
    """What a run said and measured."""
    from pipeline.monitor.logs import show

    show(
        RESULTS,
        options.run,
        lines=options.lines,
        follow=options.follow,
        metrics=options.metrics,
    )


def stop(options: argparse.Namespace) -> int:
    """Stop runs, or all of them; 1 when one goes on."""
    from pipeline.monitor import stop as stopper

    stopper.check_names(options.runs, options.all)
    return stopper.stop_all(RESULTS) if options.all else stopper.stop(RESULTS, options.runs)


def tables(options: argparse.Namespace) -> None:
    """Stage aggregate, or its tables on the terminal."""
    from pipeline.planning.plan import read_plan
    from pipeline.store.paths import PLAN_FILE

    _only_settings(options)
    read_plan()
    if options.show:
        from pipeline.stages.aggregate import show

        print(show(PLAN_FILE, RESULTS / "records"))
        return
    from pipeline.stages.aggregate import aggregate

    params = _params(options)
    aggregate(PLAN_FILE, RESULTS / "records", RESULTS, Path(params.data.root) / "processed")
    print(f"tables, figures and {RESULTS / 'report.html'} written")


def predict(options: argparse.Namespace) -> None:
    """Label images with a trained run."""
    from pipeline.runner.predict import predict as label

    paths = [Path(path) for path in options.images]
    storage = load_params().cluster.storage
    label(RESULTS, options.run, paths, Path(options.out), options.weights, options.device, storage)


def codebook(options: argparse.Namespace) -> None:
    """Build, inspect, compare and save codebooks."""
    from pipeline.tools.codebook import run

    run(options)


def labels(options: argparse.Namespace) -> None:
    """Print the labels of this machine's GPUs as `ray start --labels` takes them."""
    from pipeline.machine.gpus import gpu_labels

    print(",".join(f"{key}={value}" for key, value in gpu_labels().items()))


def ui(options: argparse.Namespace) -> int:
    """Serve MLflow's page until Ctrl-C."""
    from pipeline.planning.settings import tracking_config
    from pipeline.tracking import prepare_store, ui_address, ui_command

    config = tracking_config(_params(options))
    command = ui_command(config, port=options.port, host=options.host)
    prepare_store(config, [])
    address = ui_address(options.port, options.host)
    print(f"MLflow starts at {address} (Ctrl-C ends it)", file=sys.stderr)
    return subprocess.call(command, env=os.environ)


def doctor(options: argparse.Namespace) -> int:
    """Checks of this machine; 1 when one of them is a fault."""
    from pipeline.doctor import examine

    return examine(_params(options), as_json=options.json)


def verify(options: argparse.Namespace) -> None:
    """Check raw files without writing anything."""
    from ecocseg.data.verify import verify_raw
    from pipeline.sources.receipts import read_receipt

    params, datasets = _datasets(options)
    root = Path(params.data.root)
    faults = []
    for dataset in datasets:
        found = verify_raw(dataset, read_receipt(root, dataset.name).folder(root))
        print(f"{dataset.name}: {'no fault' if not found else f'{len(found)} faults'}")
        faults += found
    if faults:
        raise DataError("\n".join(["faults in the raw files:", *map(str, faults)]))


def _params(options: argparse.Namespace, *, runs: bool = True) -> Params:
    """params.yaml with the overrides; with `runs` those of the runs' configuration too."""
    given = _checked(options.overrides)
    params = load_params([text for text in given if is_params_override(text)])
    if not runs:
        return params
    for text in _run_overrides(options):
        if text.partition("=")[0] in ("experiment", "cell", "seed"):
            raise ConfigError(
                f"{text}: that is for `ecocseg train`; here write experiments='[NAME]' or "
                "seeds='[0,1]'"
            )
    return replace(params, overrides=[*params.overrides, *_run_overrides(options)])


def _only_settings(options: argparse.Namespace) -> None:
    """Refuse what the plan has decided already: it would be ignored."""
    for text in options.overrides:
        key = text.partition("=")[0].split(".")[0]
        if key not in ("data", "cluster", "tracking"):
            raise ConfigError(
                f"{text}: the plan decides what is run; change params.yaml (or type "
                f"`ecocseg plan --out {text}` first), then `ecocseg {options.command}`"
            )


def _datasets(options: argparse.Namespace) -> tuple[Params, list[DatasetConfig]]:
    """Parameters, and the data sets that `dataset=NAME` or else the experiments name."""
    from pipeline.config.datasets import load_dataset
    from pipeline.planning.plan import datasets_of

    named = [o.partition("=")[2] for o in options.overrides if o.startswith("dataset=")]
    options.overrides = [o for o in options.overrides if not o.startswith("dataset=")]
    params = _params(options)
    return params, [load_dataset(name) for name in named] if named else datasets_of(params)


def _run_overrides(options: argparse.Namespace) -> list[str]:
    return [text for text in options.overrides if not is_params_override(text)]


def _checked(overrides: list[str]) -> list[str]:
    from pipeline.config.params import TOP_LEVEL

    for text in overrides:
        if "=" not in text:
            raise ConfigError(unknown(text, "override", text, TOP_LEVEL) + "; write key=value")
    return overrides
