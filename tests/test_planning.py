"""Every configuration that users can name composes and validates; a typo ends at the plan."""

import hashlib
from dataclasses import replace

import pytest
import yaml

from ecocseg.codes.codebook import Codebook
from ecocseg.data.config import DatasetConfig
from ecocseg.errors import ConfigError, DataError
from ecocseg.methods import METHODS
from ecocseg.models.packaged import PACKAGED
from pipeline.config.compose import compose_config, load_yaml, names
from pipeline.config.epochs import with_steps
from pipeline.config.params import Params, load_params
from pipeline.config.run_spec import RunSpec, clean_config, validate
from pipeline.planning.plan import (
    compose_cell,
    datasets_of,
    list_fingerprints,
    load_experiment,
    overruled,
    plan,
    read_plan,
    search_cell,
    search_identity,
    write_plan,
)
from pipeline.stages import plan as stages_plan
from pipeline.store.paths import BEST_FILE

CELLS = [(name, cell) for name in names("experiment") for cell in load_experiment(name)["cells"]]


def params(**changes):
    return replace(load_params(), **changes)


@pytest.mark.parametrize(("experiment", "cell"), CELLS)
def test_every_cell_of_every_experiment_composes(experiment, cell):
    _, components = compose_cell(load_experiment(experiment), cell, [])
    for dataset in components.benchmark.datasets:
        DatasetConfig.from_mapping(load_yaml("dataset", dataset))


@pytest.mark.parametrize("name", names("dataset"))
def test_every_data_set_is_declared_under_its_own_name(name):
    assert DatasetConfig.from_mapping(load_yaml("dataset", name)).name == name


def test_every_method_has_a_file_and_every_file_a_method():
    assert names("method") == sorted(METHODS)


@pytest.mark.parametrize("group", ["method", "encoding", "model", "schedule"])
def test_every_file_of_a_group_validates(group):
    for name in names(group):
        validate(with_steps(clean_config(compose_config([f"{group}={name}"]))))


def test_the_committed_parameters_are_valid():
    load_params()
    search_cell(load_params())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method=dacz", "unknown method 'dacz'; did you mean 'dacs'?"),
        ("encoding.qualty=image", "unknown field 'qualty'; did you mean 'quality'?"),
        ("encoding.threshold=1.5", r"threshold: got 1\.5"),
        ("schedule.optim.lr=-1", "lr: got -1"),
        ("schedule.steps=none", r"schedule\.steps: got 'none', expected a whole number"),
        ("model.decoder=unett", "unknown value 'unett'; did you mean 'unet'?"),
        ("benchmark.evaluation.mode=slide", "window: got None"),
    ],
)
def test_a_typo_or_a_value_out_of_range_ends_at_the_plan(override, message):
    with pytest.raises(ConfigError, match=message):
        plan(params(experiments=["streets_uda"], overrides=[override]), need_data=False)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "mic"])
def test_hrda_goes_with_methods_that_train_its_detail_crop(method):
    def composed():
        values = ["model=small_hrda", f"method={method}", "benchmark=streets_uda"]
        return validate(clean_config(compose_config(values)))

    if method in ("supervised", "dacs", "daformer"):
        assert composed().model.decoder == "hrda"
    else:
        with pytest.raises(ConfigError, match=rf"model.decoder: got 'hrda' with method '{method}'"):
            composed()


def test_what_a_search_found_is_usable_by_the_plan(tmp_path, monkeypatch):
    given = params(experiments=["streets_uda"], overrides=[])
    path = tmp_path / "best.yaml"
    path.write_text("overrides: [encoding.threshold=0.7, encoding.temperature=0.2]\nvalue: 1.0\n")
    rows = plan(
        params(
            experiments=["streets_uda"],
            override_files=[str(path)],
            overrides=["encoding.threshold=0.9"],
        ),
        need_data=False,
    )
    found = next(row["spec"]["encoding"] for row in rows if row["cell"] == "dacs_ecoc")
    assert (found["threshold"], found["temperature"]) == (0.9, 0.2)
    # Of other settings than today's the search's own file is not taken; a copy of it is.
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"best\.yaml cannot be read .*`dvc repro search` m"):
        plan(replace(given, override_files=[str(BEST_FILE)]), need_data=False)
    BEST_FILE.parent.mkdir(parents=True)
    found = {"overrides": ["encoding.threshold=0.7"], "search": search_identity(given)}
    BEST_FILE.write_text(yaml.safe_dump(found))
    rows = plan(replace(given, override_files=[str(BEST_FILE)]), need_data=False)
    assert {row["spec"]["encoding"].get("threshold") for row in rows} == {None, 0.7}
    for changes in (
        {"search": replace(given.search, trials=99)},
        {"overrides": ["encoding.distance_weight=3"]},
    ):
        with pytest.raises(ConfigError, match=r"other settings .*`dvc repro search` first"):
            plan(replace(given, override_files=[str(BEST_FILE)], **changes), need_data=False)
    for wrong in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigError, match="override_files: "):
            plan(replace(given, override_files=[str(wrong)]), need_data=False)


def test_what_an_experiment_compares_is_not_overruled_without_a_word(capsys):
    given = params(
        experiments=["table04_threshold_ablation"],
        overrides=["encoding.threshold=0.9", "schedule.steps=7"],
    )
    cells = load_experiment("table04_threshold_ablation")["cells"]
    own = {
        name: [text for text in cell["overrides"] if "threshold=" in text]
        for name, cell in cells.items()
    }
    rows = {row["cell"]: row["spec"] for row in plan(given, need_data=False)}
    assert len([texts for texts in own.values() if texts]) > 4
    for name, texts in own.items():
        assert not texts or texts[0] == f"encoding.threshold={rows[name]['encoding']['threshold']}"
    stages_plan.run(given, write=False)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    (line,) = [line for line in told if "encoding.threshold=0.9" in line]
    assert "does not reach" in line
    assert "table04_threshold_ablation" in line
    inner = params(experiments=["streets_uda_full"], overrides=["method.feature_weight=0.005"])
    (line,) = overruled(inner)
    assert "daformer_one-hot, daformer_ecoc, mic_one-hot, mic_ecoc" in line
    # The same value overrules nothing, and how long a run trains is the user's.
    assert overruled(replace(given, overrides=["schedule.steps=7"])) == []
    stages = params(experiments=["camvid_ssl"], overrides=["schedule.steps=7"])
    assert {row["spec"]["schedule"]["steps"] for row in plan(stages, need_data=False)} == {7}
    (line,) = overruled(stages)
    assert line.startswith("schedule.steps=7 replaces what camvid_ssl sets for stpp_one-hot_1_16")


def test_an_override_reaches_the_cells_that_have_its_field():
    rows = plan(
        params(experiments=["streets_uda"], overrides=["encoding.threshold=0.9"]), need_data=False
    )
    found = {row["cell"]: row["spec"]["encoding"].get("threshold") for row in rows}
    assert found == {
        "source-only": None,
        "dacs_one-hot": None,
        "dacs_ecoc": 0.9,
        "dacs_ecoc-auto": 0.9,
        "oracle": None,
    }
    with pytest.raises(ConfigError, match="unknown field 'threshold'"):
        compose_cell(
            load_experiment("streets_uda"), "oracle", ["encoding.threshold=0.9"], strict=True
        )


def test_an_override_reaches_the_method_inside_a_method_and_the_models_that_have_its_field():
    experiment = load_experiment("table01_uda")
    overrides = ["method.feature_weight=0.5", "model.hr_windows=4"]
    found = {}
    for cell in ("gta_dacs_ecoc", "gta_daformer_ecoc", "gta_mic_ecoc"):
        config, _ = compose_cell(experiment, cell, overrides)
        method = config["method"]
        inside = method.get("inner", method)
        found[cell] = (inside.get("feature_weight"), config["model"].get("hr_windows"))
    assert found == {
        "gta_dacs_ecoc": (None, None),
        "gta_daformer_ecoc": (0.5, None),
        "gta_mic_ecoc": (0.5, 4),
    }
    config, _ = compose_cell(experiment, "gta_mic_ecoc", overrides, strict=True)
    assert config["method"]["inner"]["feature_weight"] == 0.5
    for wrong in ("method.feature_wait=1", "model.hr_window=1"):
        with pytest.raises(ConfigError, match="unknown field"):
            compose_cell(experiment, "gta_mic_ecoc", [wrong])


def test_a_published_list_is_part_of_a_run(tmp_path):
    """UniMatch's lists: another list is another run, and one that is not there ends at the plan."""
    values = replace(load_params(), data=replace(load_params().data, root=str(tmp_path)))
    config = compose_config(
        ["benchmark=ssl", "benchmark.dataset=cityscapes", "benchmark.crop=[8,8]",
         "benchmark.published='1_8'"]
    )  # fmt: skip
    components = validate(clean_config(config))
    name = "cityscapes/partitions/1_8"
    assert list_fingerprints(values, components, False) == {name: None}
    path = tmp_path / "processed/cityscapes/partitions/1_8.txt"
    path.parent.mkdir(parents=True)
    for text in ("a\n", "b\n"):
        path.write_text(text)
        checksum = hashlib.sha256(text.encode()).hexdigest()
        assert list_fingerprints(values, components, False) == {name: checksum}
    with pytest.raises(DataError, match="run the stages fetch and preprocess"):
        list_fingerprints(values, components, True)


def test_an_unknown_experiment_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'streets_uda'"):
        plan(params(experiments=["street_uda"]), need_data=False)


def test_data_that_is_not_prepared_is_named_with_the_remedy(tmp_path):
    missing = params(data=replace(load_params().data, root=str(tmp_path)))
    with pytest.raises(DataError, match=r"not prepared; run `dvc repro preprocess`"):
        plan(missing)


def ids(**changes):
    return {
        (row["experiment"], row["cell"], row["seed"]): row["run_id"]
        for row in plan(params(**changes), need_data=False)
    }


def test_changing_one_experiment_changes_its_runs_only():
    before = ids()
    changed = ids(experiment_overrides={"streets_ssl": ["encoding.quality_threshold=0.9"]})
    for key, run_id in before.items():
        assert (changed[key] == run_id) == (key[0] != "streets_ssl")


def test_what_does_not_change_the_result_does_not_change_the_run():
    def run_ids(*overrides):
        return ids(experiments=["streets_ssl"], overrides=[f"schedule.{o}" for o in overrides])

    before = run_ids()
    speed = ("loader_workers=2", "checkpoint_every=40", "activation_checkpointing=true", "gpus=2")
    assert run_ids(*speed) == before
    for override in ("steps=401", "micro_batches=2"):
        assert not set(run_ids(override).values()) & set(before.values())


def test_run_ids_are_distinct_and_stable_through_the_plan_file(tmp_path):
    rows = plan(params(seeds=[0, 1, 7]), need_data=False)
    assert len({row["run_id"] for row in rows}) == len(rows)
    write_plan(rows, tmp_path / "plan.jsonl")
    again = read_plan(tmp_path / "plan.jsonl")
    assert [RunSpec.from_dict(row["spec"]).run_id for row in again] == [r["run_id"] for r in rows]


def test_the_content_of_the_data_is_part_of_a_run():
    config, _ = compose_cell(load_experiment("streets_uda"), "oracle", [])
    specs = [
        RunSpec(experiment="e", cell="c", seed=0, config=config, data={"streets_camera": h})
        for h in ("a", "b")
    ]
    assert specs[0].run_id != specs[1].run_id


def test_the_data_sets_of_experiments_and_search_are_found():
    found = [d.name for d in datasets_of(params(experiments=["streets_ssl"]))]
    assert found == ["streets_camera", "streets_game"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"experiments": []}, "experiments: got"),
        ({"experiments": ["a"], "seeds": [0, 0]}, "each seed once"),
        ({"experiments": ["a"], "seeds": [-1]}, "seeds: got -1"),
    ],
)
def test_parameters_out_of_range_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        Params(**fields)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("experiments: camvid_ssl", "experiments: got 'camvid_ssl', expected a list, each a text"),
        ("experiments: [1]", "experiments: got 1, expected a text"),
        ("experiments: [a]\noverrides: [encoding.threshold: 0.9]", "overrides: got .*a text"),
        ("experiments: [a]\ndata: {sources: {camvid: 3}}", r"data.sources.camvid: got 3"),
        ("experiments: [a]\ndata: {root: ~/data}", "root: got '~/data', allowed is a path without"),
    ],
)
def test_values_of_the_wrong_kind_are_named(tmp_path, text, message):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_params(path=tmp_path / "params.yaml")


def test_another_file_under_the_same_name_is_another_run(tmp_path):
    path = tmp_path / "book.json"
    chosen = {"experiments": ["streets_uda"], "overrides": [f"encoding.codebook_path={path}"]}
    with pytest.raises(ConfigError, match=r"encoding.codebook_path: .* is not there"):
        ids(**chosen)
    found = []
    for seed in (0, 1):
        Codebook.build("mmd", num_classes=19, length=24, seed=seed, draws=10).save(path)
        found.append(ids(**chosen))
    for key in found[0]:
        assert (found[0][key] == found[1][key]) == ("ecoc" not in key[1])
    path.write_text("{}")
    with pytest.raises(DataError, match=r"book\.json: no codebook"):
        ids(**chosen)


def test_a_folder_alone_stands_for_the_root_of_the_data(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("experiments: [streets_uda]\ndata: {root: data, workers: 3}\n")
    found = load_params(["data=small", "data.sources.gta=/raw/gta"], path).data
    assert (found.root, found.workers, found.sources) == ("small", 3, {"gta": "/raw/gta"})
    path.write_text("experiments: [streets_uda]\n")
    assert load_params(["data=small"], path).data.root == "small"


def test_an_unknown_parameter_is_named(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("experiments: [streets_uda]\nseed: [0]\n")
    with pytest.raises(ConfigError, match=r"params.yaml.seed: .*did you mean 'seeds'"):
        load_params(path=path)


def test_other_weights_in_a_package_are_other_runs(monkeypatch):
    """The checksum of the plan is that of the file, and known where nothing is installed."""
    chosen = {
        "experiments": ["streets_uda"],
        "overrides": [
            "model.encoder=tu-tf_efficientnet_lite0",
            "model.weights='package:efficientnet-lite0'",
        ],
    }
    name = "efficientnet-lite0"
    source = PACKAGED[name]
    checksum = hashlib.sha256(source.path().read_bytes()).hexdigest()
    rows = plan(params(**chosen), need_data=False)
    assert {row["spec"]["data"]["model.weights"] for row in rows} == {checksum}
    first = set(ids(**chosen).values())
    monkeypatch.setitem(PACKAGED, name, replace(source, distribution="not-there"))
    assert set(ids(**chosen).values()) == first
    monkeypatch.setitem(PACKAGED, name, replace(source, sha256="0" * 64))
    assert not set(ids(**chosen).values()) & first
