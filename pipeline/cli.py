"""The `ecocseg` command. It imports inside commands, so that --help answers at once."""

import argparse
import io
import logging
import sys
from collections.abc import Sequence

import pipeline  # noqa: F401  (switches usage reporting off before anything else is imported)
from ecocseg.errors import UserError

_OVERRIDES = (
    "Overrides are key=value: a field of params.yaml (experiments='[camvid_ssl]' seeds='[0,1]') "
    "or of the runs' configuration (method=dacs encoding.threshold=0.9 schedule.steps=1000)."
)
_COMMANDS = {
    "fetch": "bring the raw files of every data set that the experiments need",
    "preprocess": "verify the raw files and prepare what training reads",
    "plan": "list the runs with cost; --out writes them as results/plan.jsonl",
    "train": "run one cell here and now: ecocseg train experiment=NAME cell=NAME seed=0",
    "grid": "run everything in results/plan.jsonl that is not finished, on Ray",
    "search": "search hyperparameters with Ray Tune",
    "status": "show the grid at a glance, from another terminal too",
    "logs": "show what a run said and measured: ecocseg logs EXPERIMENT/CELL/SEED",
    "stop": "stop runs, or with --all the grid and the search; checkpoints are kept",
    "tables": "make tables, figures and the report from the records",
    "predict": "label images with a trained run",
    "codebook": "build, inspect, compare and save codebooks",
    "labels": "print this machine's labels for `ray start --labels`: kind and memory of its GPUs",
    "ui": "open MLflow's page on the tracked runs",
    "doctor": "check this machine and the cluster: versions, GPUs, storage, tracking, data",
    "verify": "check the raw files of the data sets, every fault with its remedy",
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="ecocseg",
        description="Pseudo-label learning for semantic segmentation, on any number of workers.",
        epilog="Stages of `dvc repro`: fetch, preprocess, plan, grid, search, tables.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in _COMMANDS.items():
        command = commands.add_parser(name, help=text, description=f"{text}.", epilog=_OVERRIDES)
        _arguments(name, command)
    return parser


def _arguments(name: str, command: argparse.ArgumentParser) -> None:
    if name == "plan":
        command.add_argument("--out", action="store_true", help="write results/plan.jsonl")
        command.add_argument(
            "--search", action="store_true", help="write results/search_inputs.json instead"
        )
    elif name == "tables":
        command.add_argument("--show", action="store_true", help="print the tables, write nothing")
    elif name == "predict":
        command.add_argument("run", help="run id (results/runs/<run id>)")
        command.add_argument(
            "images",
            nargs="+",
            help="image files, or folders of them; for pairs two of either, the earlier first",
        )
        command.add_argument("--out", default="results/predictions", help="folder for the labels")
        command.add_argument(
            "--weights", choices=("last", "best", "teacher"), default="last", help="default: last"
        )
        command.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
        return
    elif name == "codebook":
        _codebook_arguments(command)
        return
    elif name == "labels":
        command.epilog = 'Use: ray start --address=HEAD:6379 --labels "$(ecocseg labels)"'
        return
    elif name == "ui":
        command.add_argument("--port", type=int, default=5000)
        command.add_argument("--host", default="127.0.0.1", help="default: this machine only")
    elif name == "doctor":
        command.add_argument("--json", action="store_true", help="for scripts")
    elif name in ("status", "logs", "stop"):
        _watching_arguments(name, command)
        return
    what = "overrides"
    if name in ("fetch", "preprocess", "verify"):
        what += "; dataset=NAME takes that data set instead of those of the experiments"
    command.add_argument("overrides", nargs="*", metavar="key=value", help=what)


def _watching_arguments(name: str, command: argparse.ArgumentParser) -> None:
    run = "a run id, the start of one, or EXPERIMENT/CELL/SEED"
    command.epilog = "It reads the files below results/, wherever the grid runs."
    if name == "status":
        filters = "show runs of experiment=, cell=, seed= or state=VALUE only"
        command.add_argument("filters", nargs="*", metavar="key=value", help=filters)
        command.add_argument(
            "--all", action="store_true", help="list waiting and finished ones too"
        )
        command.add_argument("--watch", action="store_true", help="again and again, until Ctrl-C")
        command.add_argument("--json", action="store_true", help="for scripts")
    elif name == "logs":
        command.add_argument("run", metavar="RUN", help=run)
        command.add_argument(
            "-n",
            "--lines",
            type=int,
            default=40,
            metavar="N",
            help="the last N (40), 0: all",
        )
        command.add_argument("--metrics", action="store_true", help="all that a step measured")
        command.add_argument("-f", "--follow", action="store_true", help="until the run ends")
    else:
        command.add_argument("runs", nargs="*", metavar="RUN", help=run)
        command.add_argument(
            "--all", action="store_true", help="the grid, the search, and single runs too"
        )


def _codebook_arguments(command: argparse.ArgumentParser) -> None:
    command.epilog = "`ecocseg codebook ACTION --help` lists the options of each."
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in {
        "build": "make a codebook and show its distances",
        "save": "make a codebook and write it for encoding.codebook_path",
        "inspect": "show a saved codebook",
        "compare": "make a codebook with every builder and show all of them",
    }.items():
        action = actions.add_parser(name, help=text, description=f"{text}.")
        if name in ("build", "save"):
            action.add_argument("builder", help="text, mmd, hadamard, optimised, ... (App. B, C)")
        if name == "save":
            action.add_argument("--out", required=True, metavar="FILE", help="JSON file to write")
        if name == "inspect":
            action.add_argument("file", help="a file written by `ecocseg codebook save`")
        else:
            _classes_arguments(action)
        if name == "compare":
            action.add_argument(
                "--all-benchmarks", action="store_true", help="each benchmark's classes and length"
            )
        action.add_argument("--embeddings", metavar="FILE", help="word2vec or GloVe file of names")
        action.add_argument(
            "--picture", metavar="FILE", help="PNG file: similarity matrices and distances"
        )


def _classes_arguments(action: argparse.ArgumentParser) -> None:
    action.add_argument("--num-classes", type=int, metavar="N", help="a benchmark's N has names")
    action.add_argument("--classes", metavar="TABLE", help="a class table, such as cityscapes19")
    action.add_argument("--class-names", metavar="A,B,C", help="names, with commas between")
    action.add_argument("--length", type=int, default=40, metavar="K", help="bits; default: 40")
    action.add_argument("--seed", type=int, default=0, help="of the builders that search")
    action.add_argument(
        "--draws", type=int, default=100_000, help="random matrices of mmd; default: 100000"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 on success, 1 for what the user can mend, 130 after Ctrl-C."""
    options = build_parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Below `dvc` it is a pipe, and would say after hours what belongs before them.
        sys.stdout.reconfigure(line_buffering=True)
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    for package in ("ecocseg", "pipeline"):
        logging.getLogger(package).setLevel(logging.INFO)
    from pipeline import commands

    try:
        return int(getattr(commands, options.command)(options) or 0)
    except UserError as error:
        print(f"ecocseg {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        text = str(stop) or "interrupted; the same command goes on from here"
        print(f"\necocseg {options.command}: {text}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) has what it wanted.
        sys.stderr.close()
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"ecocseg {options.command}: {where}{error.strerror or error}; make room on the disk, "
            "or mend the path or its permissions, and start the same command again: what is done "
            "is kept",
            file=sys.stderr,
        )
        return 1


if __name__ == "__main__":
    sys.exit(main())
