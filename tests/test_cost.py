"""What `ecocseg plan` says before a long run: cost, GPU memory and what lowers it."""

from dataclasses import replace

import pytest
import torch

from ecocseg.errors import ConfigError
from ecocseg.models.blank import blank_model
from ecocseg.models.config import DECODERS, ModelConfig
from ecocseg.models.cost import network_cost
from pipeline.cli import main
from pipeline.config.compose import compose_config
from pipeline.config.params import DataParams, load_params
from pipeline.config.run_spec import clean_config, validate
from pipeline.planning.cost import (
    POOLED,
    TERA_MACS_PER_HOUR,
    card_gb,
    check_batches,
    run_cost,
    run_memory,
)
from pipeline.planning.plan import compose_cell, load_experiment, plan
from pipeline.runner.exhausted import savers
from pipeline.stages.plan import legend, overview, seeds_text


def cell(name, overrides=(), experiment="table01_uda"):
    config, components = compose_cell(load_experiment(experiment), name, overrides)
    return components, config


def test_table_1_is_listed_without_its_data(tmp_path, capsys):
    arguments = ["experiments=[table01_uda]", "seeds=[0,1]", f"data.root={tmp_path}"]
    assert main(["plan", *arguments]) == 0
    text = capsys.readouterr().out
    assert "table01_uda: 12 cells, 24 runs" in text
    lines = [line for line in text.splitlines() if line.split()[:1] and "_" in line.split()[0]]
    lines = [line for line in lines if line.split()[0] in load_experiment("table01_uda")["cells"]]
    assert len(lines) == 12
    assert all(" GB" in line and "no data yet" in line for line in lines)
    assert all("0, 1" in line for line in lines)
    assert sum("2 x " in line for line in lines) == 4
    assert "warning" not in text
    assert "hours of one run on an RTX 3090" in text
    assert "GPU hours" in text


def test_the_hours_are_those_of_the_papers_table_15():
    hours = run_cost(*cell("daformer_one-hot", experiment="table15_training_cost"))
    assert hours / TERA_MACS_PER_HOUR == pytest.approx(13.7, rel=0.001)


def test_the_memory_of_recipes_beside_published_figures():
    onehot, ecoc = (
        run_memory(*cell(f"daformer_{name}", experiment="table15_training_cost"))
        for name in ("one-hot", "ecoc")
    )
    # Table 15: 9,807 MB one-hot, 12,817 MB ECOC; ours need not hold [B,N,K,H,W] for the latter.
    assert 0.75 < card_gb(onehot) / 9.807 < 1
    assert 1 < ecoc.total / onehot.total < 1.03
    # lhoyer/MIC#73: 23.3 GB, two images on one card.
    mic = run_memory(*cell("gta_mic_one-hot", ["schedule.gpus=1", "model.head=linear"]))
    assert 0.6 < card_gb(mic) / 23.3 < 1


def test_the_passes_of_mic_are_counted_with_their_windows():
    components, config = cell("gta_mic_one-hot")
    whole = network_cost(components.model, 19, (1024, 1024)).macs
    # A prediction: the context at half the size with its attention and nine windows of 512;
    # learning: one of each, forward and twice that backward, on three images.
    single = network_cost(
        replace(components.model, decoder="daformer", hr_crop=None), 19, (512, 512)
    ).macs
    attention = whole - 10 * single
    step = 3 * 3 * (2 * single + attention) + whole + single
    assert run_cost(components, config) == pytest.approx(40_000 * 2 * step / 1e12, rel=0.02)


def test_too_large_a_recipe_is_warned_of_with_what_lowers_it(tmp_path):
    params = replace(
        load_params(),
        experiments=["streets_uda"],
        seeds=[0],
        overrides=[
            f"benchmark.{part}_transform.crop=[6000,6000]" for part in ("labelled", "unlabelled")
        ],
        data=DataParams(root=str(tmp_path)),
    )
    rows = [row for row in plan(params, need_data=False) if row["cell"] == "oracle"]
    _, (warning,) = overview(rows, tmp_path)
    assert "streets_uda/oracle needs about" in warning
    for name in ("schedule.activation_checkpointing=true", "precision=bf16", "micro_batches=2"):
        assert name in warning
    components, _ = cell("oracle", experiment="streets_uda")
    schedule = replace(components.schedule, activation_checkpointing=True, micro_batches=4)
    bf16 = "schedule.precision=bf16 (not paper-exact)"
    assert savers(schedule) == bf16
    # The parts are as many as divide both batches, eight and four images.
    halves = replace(schedule, micro_batches=2)
    assert savers(halves) == f"{bf16}, schedule.micro_batches=4 (not paper-exact)"
    assert "smaller crop" in savers(replace(schedule, precision="bf16"))


def test_features_of_a_random_network_are_warned_of(tmp_path):
    params = replace(
        load_params(),
        experiments=["table01_uda"],
        seeds=[0],
        overrides=["model.weights=none"],
        data=DataParams(root=str(tmp_path)),
    )
    _, warnings = overview(plan(params, need_data=False), tmp_path)
    cells = [text.split()[0].partition("/")[2] for text in warnings if "keeps the network" in text]
    assert cells == [
        f"{source}_{method}_{encoding}"
        for source in ("gta", "synthia")
        for method in ("daformer", "mic")
        for encoding in ("one-hot", "ecoc")
    ]
    assert all("method.feature_weight=0" in text for text in warnings)


def test_copies_cost_once(tmp_path):
    params = replace(
        load_params(),
        experiments=["streets_uda", "streets_codebooks"],
        seeds=[0],
        data=DataParams(root=str(tmp_path)),
    )
    rows = plan(params, need_data=False)
    shared = [row for row in rows if row["cell"] in ("dacs_ecoc", "text")]
    alone = legend(shared[:1]).splitlines()
    both = legend(shared).splitlines()
    assert both == [*alone, "1 of 2 runs are copies of others, computed once"]


@pytest.mark.parametrize("decoder", sorted(DECODERS))
def test_decoders_that_pool_an_image_to_one_value_want_two_images(decoder):
    encoder = {"dpt_vit": "tu-test_vit", "unet_slices": "unet_slices"}.get(decoder, "resnet18")
    crop = (64, 64) if decoder == "hrda" else None
    model = ModelConfig(decoder=decoder, encoder=encoder, hr_crop=crop)
    network = blank_model(model, 5).train()
    one = torch.empty(1, model.image_channels, 128, 128, device="meta")
    try:
        network.outputs(one, torch.Generator())
        fails = False
    except ValueError as error:
        fails = "more than 1 value per channel" in str(error)
    assert fails == (decoder in POOLED)


@pytest.mark.parametrize(
    ("method", "overrides", "refused"),
    [
        ("supervised", ["schedule.labelled_batch=1"], "schedule.labelled_batch: got 1"),
        ("supervised", ["schedule.labelled_batch=2"], None),
        ("supervised", ["schedule.labelled_batch=2", "schedule.micro_batches=2"],
         "schedule.labelled_batch: got 2 with schedule.micro_batches 2"),
        ("fixmatch", ["schedule.unlabelled_batch=1"], "schedule.unlabelled_batch: got 1"),
        ("supervised", ["schedule.labelled_batch=1", "model=small_daformer"], None),
        # Its views come in pairs.
        ("unimatch", ["schedule.unlabelled_batch=1"], None),
    ],
)  # fmt: skip
def test_a_batch_of_one_image_is_refused_where_statistics_want_two(method, overrides, refused):
    base = ["model=small", f"method={method}", "encoding=one-hot"]
    config = clean_config(compose_config([*base, *overrides]))
    assert config["model"]["decoder"] in ("deeplabv3plus", "daformer")
    if refused is None:
        check_batches(validate(config), config)
    else:
        with pytest.raises(ConfigError) as caught:
            check_batches(validate(config), config)
        assert refused in str(caught.value)


def test_many_cells_that_are_alike_share_a_line(tmp_path):
    (row, *_) = plan(
        replace(load_params(), experiments=["streets_uda"], seeds=[0]), need_data=False
    )
    rows = [row | {"cell": f"c{number}", "seed": seed} for number in range(70) for seed in range(4)]
    other = row | {"cell": "other", "cost": row["cost"] / 4}
    (table,), _ = overview([*rows, other], tmp_path)
    assert table.title == "streets_uda: 71 cells, 281 runs"
    cells = [list(column.cells) for column in table.columns]
    assert cells[0] == ["c0 and 69 more", "other"]
    assert cells[3] == ["0 to 3", "0"]
    assert cells[-1] == ["no data yet"] * 2
    (table,), _ = overview(rows[:160], tmp_path)
    assert table.row_count == 40


@pytest.mark.parametrize(
    ("seeds", "text"),
    [
        ([0], "0"),
        ([0, 1], "0, 1"),
        ([0, 1, 2], "0 to 2"),
        ([3, 1, 2, 3, 4, 7, 8], "3, 1 to 4, 7, 8"),
    ],
)
def test_seeds_are_told_in_short(seeds, text):
    assert seeds_text(seeds) == text
