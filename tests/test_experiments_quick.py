"""Every experiment runs with `--quick`, studies twice to the same numbers, and draws from files."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from seqlab.cli import main
from seqlab.runlog import read_run

ROOT = Path(__file__).parents[1]
STUDIES = sorted(
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    for path in (ROOT / "experiments").rglob("*.py")
    # A sweep and what checks the figures drive runs and have no numbers of their own.
    if path.stem not in ("__init__", "sweep", "reproduce")
)
FIGURES = {
    "experiments.vanishing_gradients": {
        "gradient_over_time.png",
        "training_heatmap.png",
        "paths.png",
        "weight_shares.png",
        "singular_spectra.png",
    },
    "experiments.long_memory": {
        "success_against_length.png",
        "learning_curves.png",
        "beyond_trained_length.png",
    },
    "experiments.lstm_gate_by_gate": {
        "task_results.png",
        "learning_curves.png",
        "gradients_ladder.png",
        "gates_ladder.png",
        "gains_and_costs.png",
    },
    "experiments.rnn_lm": {"training.png", "perplexity.png"},
    "experiments.ngram_lm": {
        "perplexity_by_order.png",
        "memory_by_order.png",
        "surprise.png",
    },
    "experiments.language_memory": {
        "context.png",
        "surprise.png",
        "activations.png",
        "gradient_reach.png",
    },
    "experiments.dynamics": {
        "lyapunov_spectra.png",
        "exponents_over_training.png",
        "singular_spectra.png",
        "tanh_phase.png",
        "gated_phase.png",
        "mean_field.png",
    },
    "experiments.sequential_images": {
        "accuracy.png",
        "published.png",
        "gradient_over_time.png",
        "pixel_gradients.png",
        "confusions.png",
    },
    "experiments.text_classification": {
        "training.png",
        "confusion.png",
        "lengths.png",
        "distances.png",
        "gradient.png",
        "words.png",
    },
    "experiments.question_answering": {
        "accuracy.png",
        "distance.png",
        "facts.png",
        "training.png",
        "story_1.png",
        "story_2.png",
    },
    "experiments.captioning": {
        "training.png",
        "bleu.png",
        "agreement.png",
        "pictures.png",
        "map_1.png",
        "map_2.png",
    },
    "experiments.translation": {
        "training.png",
        "positions.png",
        "lengths.png",
        "farther.png",
        "reach.png",
        "map_1.png",
        "map_2.png",
    },
    "experiments.exploding_gradients": {"phase_diagram.png"},
    "experiments.clipping": {"angle.png", "training.png", "error_wall.png"},
    "experiments.truncation_bias": {"bias.png", "schemes.png", "training.png"},
    "experiments.end_of_story": {"linear.png", "over_time.png", "nets.png"},
    "experiments.word_embeddings": {
        "analogies_skipgram-0.png",
        "map_skipgram-0.png",
        "training_skipgram.png",
    },
    "experiments.typhoon_track": {
        "map.png",
        "errors.png",
        "spread.png",
        "past_hours.png",
        "training.png",
    },
    "experiments.machine_failure": {
        "sorted.png",
        "engines.png",
        "alarms.png",
        "past_cycles.png",
        "training.png",
    },
    "experiments.benchmarks.recurrence": {"recurrence.png"},
}


def run(study, out, *flags, draws=True):
    module = importlib.import_module(study)
    plot = getattr(module, "plot", None) if draws else None
    return read_run(main(module.Config, module.run, plot, argv=[*flags, "--out", str(out)]))


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES)
def test_quick_runs_end_and_studies_give_the_same_metrics_again(study, tmp_path):
    first = run(study, tmp_path / "first", "--quick")
    if ".benchmarks." not in study:  # whose numbers are times
        second = run(study, tmp_path / "second", "--quick", draws=False)
        assert (first.path / "metrics.jsonl").read_bytes() == (
            second.path / "metrics.jsonl"
        ).read_bytes()
    drawn = {path.name for path in (first.path / "figures").iterdir()}
    assert drawn == FIGURES.get(study, set())
    assert all(path.stat().st_size > 10_000 for path in (first.path / "figures").iterdir())


def test_studies_at_full_scale_are_other_configs_with_a_word_on_what_they_take():
    full = {}
    for study in STUDIES:
        module = importlib.import_module(study)
        if hasattr(module.Config, "full"):
            full[study] = module.Config.full() != module.Config() and "--full" in module.__doc__
    assert len(full) == 7
    assert all(full.values())


def test_another_seed_gives_other_numbers(tmp_path):
    flags = ("--quick", "--cells", "rnn", "--num-updates", "2")
    one = run("experiments.vanishing_gradients", tmp_path / "one", *flags, "--seed", "1")
    two = run("experiments.vanishing_gradients", tmp_path / "two", *flags, "--seed", "2")
    assert one.metrics != two.metrics


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ("--loss", "all"),
        ("--dataset", "digits"),
        ("--dataset", "adding"),
        ("--dataset", "copy-memory"),
        ("--dataset", "temporal-order"),
        ("--corpus", str(ROOT / "LICENSE")),
        ("--cells", "irnn", "lstm-fgr"),
    ],
    ids=" ".join,
)
def test_the_flagship_reads_every_kind_of_data(flags, tmp_path):
    cells = () if "--cells" in flags else ("--cells", "rnn")
    small = ("--num-updates", "3", "--num-probes", "2", "--seq-len", "60")
    found = run(
        "experiments.vanishing_gradients", tmp_path / "run", "--quick", *small, *cells, *flags
    )
    for figures in found.summary["cells"].values():
        assert figures["updates_skipped"] == 0
        assert figures["final_loss_nats"] > 0
        assert figures["slope_nats_per_step_at_init"] < 0.1


def test_summary_has_the_promised_keys(tmp_path):
    flags = ("--quick", "--cells", "rnn", "--num-updates", "2")
    summary = run("experiments.vanishing_gradients", tmp_path / "run", *flags).summary
    assert {"wall_s", "peak_rss_mb", "device"} <= set(summary)
    assert {
        "slope_nats_per_step_at_init",
        "half_life_steps_at_init",
        "log10_norm_ratio_at_lag_50",
        "final_loss_nats",
    } <= set(summary["cells"]["rnn"])


def test_the_measured_slope_is_that_of_mean_field(tmp_path):
    """Real text, orthogonal tanh net at initialisation: theory within a tenth."""
    flags = ("--quick", "--cells", "rnn", "--num-updates", "1", "--hidden-size", "64")
    found = run("experiments.vanishing_gradients", tmp_path / "run", *flags)
    (line,) = [row["log_norm"] for row in found.metrics if row.get("theory") == "mean field"]
    theory = line[-2] - line[-1]
    measured = found.summary["cells"]["rnn"]["slope_nats_per_step_at_init"]
    assert measured == pytest.approx(theory, rel=0.1)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--cells", "lstmm"), "did you mean 'lstm'"),
        (("--cells", "nowhere:Cell"), "cannot import"),
        (("--cells",), "cells"),
        (("--dataset", "embeded"), "did you mean 'embedded'"),
        (("--hidden-size", "0"), "hidden_size"),
        (("--batch-size", "0"), "batch_size"),
        (("--seq-len", "0"), "seq_len"),
        (("--seq-len", "10000000"), "shorter than a window"),
        (("--corpus", "EMPTY"), "is empty"),
        (("--corpus", "nowhere.txt"), "does not exist"),
        (("--dataset", "digits", "--loss", "all"), "only texts"),
        (("--no-such-flag",), "no-such-flag"),
        (("--learning-rate", "nan"), "learning_rate"),
    ],
)
def test_a_users_mistake_is_one_message_and_leaves_nothing(flags, words, tmp_path, capsys):
    (tmp_path / "empty.txt").write_text("")
    flags = [str(tmp_path / "empty.txt") if flag == "EMPTY" else flag for flag in flags]
    with pytest.raises(SystemExit) as stop:
        run("experiments.vanishing_gradients", tmp_path / "run", "--quick", *flags)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert words in message
    assert "Traceback" not in message
    assert not (tmp_path / "run").exists()


def test_plot_only_redraws_without_the_models(tmp_path):
    flags = ("--quick", "--cells", "rnn", "--num-updates", "2")
    path = run("experiments.vanishing_gradients", tmp_path / "run", *flags).path
    figure = path / "figures" / "gradient_over_time.png"
    figure.unlink()
    command = [sys.executable, "-m", "experiments.vanishing_gradients", "--plot-only", str(path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert figure.stat().st_size > 10_000


def test_metrics_hold_no_clock(tmp_path):
    flags = ("--quick", "--cells", "rnn", "--num-updates", "2")
    path = run("experiments.vanishing_gradients", tmp_path / "run", *flags).path
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    names = {name for row in rows for name in row}
    assert not [name for name in names if name.endswith(("_s", "_ms", "per_s", "time"))]
