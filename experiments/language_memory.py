"""What does a trained recurrent language model keep of its past, and what for?

    python -m experiments.language_memory                      # trains a small one first
    python -m experiments.language_memory --run runs/rnn_lm/...
    python -m experiments.language_memory --run runs/rnn_lm/... --ngram runs/ngram_lm/...

Five looks at a finished run of `experiments.rnn_lm`: its perplexity when it may read only the last
k tokens, and when all before them are shuffled; what each token of a passage surprises it by; the
units that follow the position in a line, brackets or words most closely, chosen on one half of the
text and judged on the other; how far back the gradient of a loss reaches, beside the same model
untrained; and, from the score files, what a mixture with a cache and, with `--ngram`, with n-grams
of the same tokens gains.

Without `--run`, an LSTM of characters is trained on the embedded text, into the folder `model` of
this run: a minute and a half in all on two cores. Figures: context, surprise, activations,
gradient reach.
"""

import importlib
import math
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqlab import plots
from seqlab.cli import main
from seqlab.data.checks import check_at_least, check_distinct
from seqlab.data.vocabulary import EOS, Words
from seqlab.errors import InputError
from seqlab.gradflow.taps import carry_gradients, log_norm_over_time, named_leaves
from seqlab.losses import cross_entropy
from seqlab.runlog import SUMMARY, RunLog, read_run
from seqlab.scoring import (
    PARTS,
    TokenScores,
    cache_scores,
    check_same_tokens,
    em_weights,
    interpolate,
    load_scores,
    score_file,
)

STUDY = "experiments.rnn_lm"  # no study imports another: it is found by name when it is needed
ROWS = 128  # positions walked side by side
PASSAGE = {"word": 28, "subword": 36, "char": 44}  # tokens whose surprise is shown
SHOWN = {"word": 60, "subword": 100, "char": 255}  # tokens that a unit is shown on
NEAREST = 2  # a text of fewer tokens than so many times the longest context is refused


@dataclass(frozen=True)
class Config:
    """Looks inside a recurrent language model."""

    run: Path | None = None
    """a finished run of rnn_lm; without one a small model is trained first"""
    ngram: Path | None = None
    """a finished run of ngram_lm that has scored the same tokens"""
    contexts: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100, 200)
    """k, tokens that the model may read, or read in order"""
    longest: int = 300
    """tokens that are walked where those beyond k are shuffled"""
    num_positions: int = 6000
    """tokens of the test text that are predicted from each context"""
    text_tokens: int = 6000
    """tokens over which the units are looked at"""
    num_units: int = 5
    """units that are drawn"""
    reach: int = 100
    """steps that gradients are followed back"""
    num_gradients: int = 96
    """positions whose gradients are followed"""
    cache_decay: float = 0.995
    """what a token in the cache keeps of its weight with every token"""
    hidden_size: int = 128
    """H of the model that is trained where no run is given"""
    num_epochs: int = 4
    """epochs that it is trained"""
    seed: int = 0

    def __post_init__(self):
        """Raises `InputError` for what cannot be run."""
        check_distinct(self.contexts, "contexts")
        for k in self.contexts:
            check_at_least(k, 1, "contexts")
        for field in ("num_positions", "num_units", "num_gradients", "hidden_size", "num_epochs"):
            check_at_least(getattr(self, field), 1, field)
        for field in ("reach", "text_tokens"):
            check_at_least(getattr(self, field), 2, field)
        check_at_least(self.longest, max(self.contexts), "longest", "the largest of contexts")
        if not 0 < self.cache_decay < 1:
            raise InputError(f"cache_decay must be between 0 and 1, got {self.cache_decay}")

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs."""
        return cls(
            contexts=(1, 2, 5, 10), longest=20, num_positions=128, text_tokens=1000, num_units=3,
            reach=20, num_gradients=16, hidden_size=16, num_epochs=1,
        )  # fmt: skip


def run(config: Config, log: RunLog) -> None:
    """Loads or trains the model, and takes one look after the other."""
    if config.run is not None:
        scores_of(config.run, config.ngram)  # what does not fit is refused before any work
    path = config.run or trained(config, log)
    study = importlib.import_module(STUDY)
    settings, model, params, vocabulary = study.load(path)
    scores = scores_of(path, config.ngram)
    stream = np.concatenate([[EOS], scores["recurrent"]["test"].tokens]).astype(np.int32)
    needed = NEAREST * max(config.longest, 2 * config.reach + 2)
    if len(stream) < needed:
        raise InputError(f"test text of {len(stream)} tokens: these contexts need {needed}")
    untrained = study.build(settings, {"vocabulary": vocabulary.to_json()})[1].params
    log.write(
        step=0, level=settings.level, vocabulary=vocabulary.digest, vocab_size=len(vocabulary),
        test_tokens=len(stream) - 1,
    )  # fmt: skip
    figures = look_at_contexts(config, log, model, params, stream, scores)
    look_at_passage(log, settings.level, vocabulary, scores)
    figures |= look_at_units(config, log, settings, model, (params, untrained), vocabulary, stream)
    figures |= look_at_gradients(config, log, model, (params, untrained), stream)
    figures |= look_at_mixtures(config, log, len(vocabulary), scores)
    log.finish(**figures)


def trained(config, log):
    """The run directory of a small model, trained if it is not there."""
    study = importlib.import_module(STUDY)
    settings = study.Config(
        hidden_size=config.hidden_size, num_epochs=config.num_epochs, write=0, num_devices=1,
        seed=config.seed,
    )  # fmt: skip
    if config == replace(Config.quick(), seed=config.seed):
        settings = replace(
            study.Config.quick(), hidden_size=config.hidden_size, write=0, num_devices=1,
            seed=config.seed,
        )  # fmt: skip
    path = log.path / "model"
    if (path / SUMMARY).exists():
        return path
    log.note(f"no --run: a {settings.level} {settings.cell} is trained first, in {path}")
    with log.inside("model", settings, study) as own:
        study.run(settings, own)
    study.plot(path)
    return path


def scores_of(run: Path, ngram: Path | None) -> dict[str, dict[str, TokenScores]]:
    """Model -> part -> the scores of its run, all of the same tokens.

    Raises:
      InputError: a run of another experiment, unfinished, or without scores; or other tokens.
    """
    found = {}
    for name, path, experiment in (("recurrent", run, "rnn_lm"), ("n-gram", ngram, "ngram_lm")):
        if path is None:
            continue
        record = read_run(path).record
        if record.get("experiment") != experiment:
            raise InputError(f"{path} is a run of {record.get('experiment')}, not of {experiment}")
        found[name] = {part: load_scores(score_file(path, part)) for part in PARTS}
    for part in PARTS:
        try:
            check_same_tokens([scores[part] for scores in found.values()])
        except InputError as error:
            raise InputError(f"{run} and {ngram}, {part}: {error}") from error
    return found


# Perplexity against context.


def look_at_contexts(config, log, model, params, stream, scores):
    """Nats of the same targets, whatever of their past is taken away.

    Perplexities are those of the whole test text times exp of the mean difference at the targets,
    which varies less from sample to sample than their own mean.
    """
    rng = np.random.default_rng(config.seed)
    possible = np.arange(config.longest - 1, len(stream) - 1)
    number = min(config.num_positions, len(possible))
    positions = np.sort(rng.choice(possible, number, replace=False))
    full = -scores["recurrent"]["test"].log_probs[positions]
    everywhere = scores["recurrent"]["test"].nats_per_token
    scorer = last_scorer(model)
    window = cut_nats(scorer, params, stream, positions, config.longest)
    log.write(
        step=0, look="context", kind="full", nats=everywhere, sampled_nats=np.mean(full),
        positions=number, longest=config.longest, window_difference=np.mean(window - full),
    )  # fmt: skip
    rows, within, last = [], None, {}
    for k in log.progress(sorted(config.contexts), description="contexts"):
        cut = cut_nats(scorer, params, stream, positions, k)
        mixed = shuffled_nats(scorer, params, stream, positions, k, config.longest, config.seed)
        row = {"tokens": k}
        for kind, nats, reference in (("cut", cut, full), ("shuffled", mixed, window)):
            by = nats - reference
            log.write(
                step=k, look="context", kind=kind, sampled_nats=np.mean(nats),
                difference=np.mean(by), se=standard_error(by),
            )  # fmt: skip
            row[f"{kind}: perplexity"] = math.exp(everywhere + np.mean(by))
            row[f"{kind}: nats more"] = f"{np.mean(by):.4f} ± {standard_error(by):.4f}"
        last[str(k)] = row["cut: perplexity"]
        rows.append(row)
        if within is None and np.mean(cut - full) < 0.01:
            within = k
    title = f"test perplexity {math.exp(everywhere):.2f}, and by the differences at {number} tokens"
    log.table(title, rows)
    if config.ngram is not None:
        found = read_run(config.ngram)
        smoothing = found.record["config"]["smoothing"]
        for line in plots.pick(found.metrics, look="order", smoothing=smoothing):
            log.write(
                step=line["step"] - 1, look="context", kind="n-gram",
                perplexity=line["test_perplexity"],
            )  # fmt: skip
    return {"context_tokens_within_0.01_nats": within, "test_perplexity_of_the_last": last}


def standard_error(values):
    """Of the mean."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def windows(stream, positions, k):
    """The last k tokens up to each position, [N, k], and which of them there are."""
    places = np.asarray(positions)[:, None] + np.arange(1 - k, 1)
    return stream[np.maximum(places, 0)], places >= 0


def last_scorer(model):
    """(params, xs [G, B, k], mask, targets [G, B]) -> nats of each target, [G, B], compiled."""

    @jax.jit
    def score(params, xs, mask, targets):
        def group(each):
            xs, mask, targets = each
            carry = None
            if xs.shape[1] > 1:  # logits of these steps are asked for by nobody
                carry = last(model.apply(params, xs[:, :-1], mask[:, :-1]))
            output = model.apply(params, xs[:, -1:], mask[:, -1:], carry=carry)
            return cross_entropy(output.logits[:, 0], targets)

        return jax.lax.map(group, (xs, mask, targets))

    return score


def last(output):
    """The carry after the last step."""
    return jax.tree.map(lambda leaf: leaf[:, -1], output.carries["rnn"])


def nats_of(scorer, params, xs, mask, targets):
    """Nats of targets [N] after contexts [N, k], float64 [N]."""
    number = len(targets)
    rows = min(ROWS, number)
    whole = -(-number // rows) * rows
    index = np.minimum(np.arange(whole), number - 1).reshape(-1, rows)
    return np.asarray(scorer(params, xs[index], mask[index], targets[index]), np.float64).reshape(
        -1
    )[:number]


def cut_nats(scorer, params, stream, positions, k):
    """Nats of the token after each position by a model that has read only the last k, [N]."""
    xs, mask = windows(stream, positions, k)
    return nats_of(scorer, params, xs, mask, stream[np.asarray(positions) + 1])


def shuffled_nats(scorer, params, stream, positions, k, longest, seed):
    """The same where `longest` tokens are read, all but the last k in random order, [N]."""
    xs, mask = windows(stream, positions, longest)
    rng = np.random.default_rng([seed, k])
    beyond = max(longest - k, 0)
    mixed = np.concatenate([rng.permuted(xs[:, :beyond], axis=1), xs[:, beyond:]], axis=1)
    return nats_of(scorer, params, mixed, mask, stream[np.asarray(positions) + 1])


# Surprise on a passage.


def look_at_passage(log, level, vocabulary, scores):
    """Surprise of every token of a passage from the middle of the test text, by model."""
    tokens = scores["recurrent"]["test"].tokens
    start = after_line_end(vocabulary, tokens, len(tokens) // 2)
    some = slice(start, start + PASSAGE[level])
    log.write(
        step=0, look="passage", tokens=[vocabulary.token(int(token)) for token in tokens[some]],
        bits={name: -each["test"].log_probs[some] / math.log(2) for name, each in scores.items()},
    )  # fmt: skip


def after_line_end(vocabulary, tokens, place):
    """Where the line of a place begins."""
    end = EOS if isinstance(vocabulary, Words) else int(vocabulary.encode("\n")[0])
    ends = np.flatnonzero(tokens[:place] == end)
    return int(ends[-1]) + 1 if len(ends) else place


# What units follow.


def look_at_units(config, log, settings, model, params, vocabulary, stream):
    """The units that follow simple criteria, chosen on one half of the text, judged on the other.

    `params` are those of the trained model and of the same before training.
    """
    some = stream[: config.text_tokens]
    tokens = [vocabulary.token(int(token)) for token in some]
    if not isinstance(vocabulary, Words):
        tokens[0] = "\n"  # the <eos> that the text begins after
    known = criteria(tokens, settings.level)
    half = len(some) // 2
    apply = jax.jit(lambda params, xs: activations(model.apply(params, xs)))
    trained, before = (
        {site: np.asarray(array[0], np.float64) for site, array in apply(each, some[None]).items()}
        for each in params
    )
    found = best_units(trained, known, half)
    chance = {name: abs(r) for name, _, _, _, r in best_units(before, known, half)}
    rows, shown, used = [], [], set()
    for name, site, unit, chosen_by, r in found:
        rows.append(
            {"criterion": name, "unit": f"{site} {unit}", "r, first half": chosen_by,
             "r, second half": r, "untrained |r|": chance[name]}
        )  # fmt: skip
        log.write(
            step=0, look="unit", criterion=name, site=site, unit=unit, r_chosen=chosen_by, r=r,
            r_untrained=chance[name],
        )  # fmt: skip
        if (site, unit) not in used and len(shown) < config.num_units:
            used.add((site, unit))
            shown.append((name, site, unit, r))
    log.table("units that follow a criterion most closely", rows)
    length = min(SHOWN[settings.level], len(some) - half)
    for name, site, unit, r in shown:
        start = liveliest(known[name][half:], length) + half
        part = slice(start, start + length)
        log.write(
            step=0, look="activations", criterion=name, site=site, unit=unit, r=r,
            tokens=tokens[part], values=trained[site][part, unit],
        )  # fmt: skip
    name, site, unit, r = shown[0]
    return {"best_unit": f"{site} {unit}", "best_unit_criterion": name, "best_unit_r": r}


def activations(output):
    """Site -> activations [..., T, H] within -1 .. 1: of a cell's memory c its tanh."""
    found = {}
    for layer, carry in output.carries["rnn"].items():
        for name, leaf in named_leaves(carry).items():
            site = f"{layer.replace('_', ' ')}, {'tanh c' if name == 'c' else name}"
            found[site] = jnp.tanh(leaf) if name == "c" else leaf
    return found


def criteria(tokens, level):
    """Name -> what a reader knows after each token, [T]; what never changes is left out."""
    ends = np.array([token in ("\n", "<eos>") for token in tokens])
    place, quoted, depth = 0, False, 0
    rows: dict[str, list[float]] = {}
    in_word, indent, beginning = 0, 0, True
    for token, ends_line in zip(tokens, ends, strict=True):
        place = 0 if ends_line else place + 1
        if ends_line:
            quoted, depth, in_word, indent, beginning = False, 0, 0, 0, True
        for char in token if not ends_line else "":
            if char in '"“”' or (char == "'" and (in_word == 0 or quoted)):
                quoted = not quoted
            depth = max(depth + (char in "([{") - (char in ")]}"), 0)
            in_word = in_word + 1 if char.isalnum() else 0
            beginning = beginning and char.isspace()
            indent += beginning
        row: dict[str, float] = {"position in the line": place, "line has just ended": ends_line}
        if level != "word":
            row |= {
                "inside quotes": quoted, "inside brackets": depth > 0,
                "indentation of the line": indent,
            }  # fmt: skip
        if level == "char":
            row |= {
                "a blank": token.isspace() and not ends_line, "letters of the word so far": in_word,
                "a capital": token.isupper(), "a digit": token.isdigit(),
                "a punctuation mark": unicodedata.category(token[0]).startswith("P"),
            }  # fmt: skip
        else:
            bare = token.strip()
            row |= {
                "letters of the token": 0 if ends_line else len(bare),
                "a number": bare == "N" or bare.isdigit(), "<unk>": bare == "<unk>",
                "a word begins": token[:1].isspace(), 'the word "the"': bare.lower() == "the",
                'the words "of", "to", "in"': bare.lower() in ("of", "to", "in"),
            }  # fmt: skip
        for name, value in row.items():
            rows.setdefault(name, []).append(float(value))
    found = {name: np.array(values) for name, values in rows.items()}
    half = len(tokens) // 2
    return {
        name: values for name, values in found.items()
        if np.ptp(values[:half]) > 0 and np.ptp(values[half:]) > 0
    }  # fmt: skip


def best_units(arrays, known, half):
    """(criterion, site, unit, r on the first half, r on the second), closest first."""
    found = []
    for name, values in known.items():
        best = max(
            ((site, correlations(array[:half], values[:half])) for site, array in arrays.items()),
            key=lambda pair: np.max(np.abs(pair[1])),
        )
        site, unit = best[0], int(np.argmax(np.abs(best[1])))
        judged = correlations(arrays[site][half:, unit, None], values[half:])[0]
        found.append((name, site, unit, float(best[1][unit]), float(judged)))
    return sorted(found, key=lambda row: -abs(row[-1]))


def correlations(array, values):
    """Pearson's r of each column of [T, H] with [T]; 0 of a column that does not change."""
    array, values = array - array.mean(0), values - values.mean()
    norms = np.sqrt(np.sum(array**2, axis=0) * np.sum(values**2))
    return np.where(norms > 0, values @ array / np.where(norms > 0, norms, 1.0), 0.0)


def liveliest(values, length):
    """Where the stretch begins over which values vary most."""
    starts = np.arange(0, len(values) - length + 1, max(length // 8, 1))
    return int(starts[np.argmax([np.var(values[start : start + length]) for start in starts])])


# How far gradients reach.


def look_at_gradients(config, log, model, params, stream):
    """Norm of d loss_T / d carry_{T-k} over positions, of the model trained and untrained."""
    rng = np.random.default_rng([config.seed, 1])
    length = 2 * config.reach + 1  # as many steps before, to come to a usual state
    possible = np.arange(length - 1, len(stream) - 1)
    positions = np.sort(rng.choice(possible, min(config.num_gradients, len(possible)), False))
    xs, _ = windows(stream, positions, length)
    follow = jax.jit(
        lambda params, xs, targets: jax.lax.map(
            lambda each: reach_norms(model, params, each[0], each[1], config.reach), (xs, targets)
        )
    )
    rows = math.gcd(len(positions), 16)
    groups = (xs.reshape(-1, rows, length), stream[positions + 1].reshape(-1, rows))
    figures, table = {}, []
    for name, each in zip(("trained", "untrained"), params, strict=True):
        for leaf, norms in follow(each, *groups).items():
            norms = np.asarray(norms, np.float64).reshape(len(positions), -1)
            norms[~np.isfinite(norms)] = np.nan  # of a c at the last step, which no loss reads
            low, middle, high = np.quantile(norms, (0.1, 0.5, 0.9), axis=0)
            log.write(step=0, look="reach", model=name, leaf=leaf, log_norm=middle, low=low,
                      high=high)  # fmt: skip
            life = half_life(middle)
            figures[f"gradient_half_life_steps_{leaf}_{name}"] = life
            fall = (middle[0] - middle[-2]) / math.log(10)
            figures[f"gradient_log10_fall_{leaf}_{name}"] = fall
            table.append({"model": name, "d loss / d": leaf, "half-life, steps": life,
                          f"log10, {config.reach} steps back against 1": fall})  # fmt: skip
    log.table("reach of the gradient", table)
    return figures


def reach_norms(model, params, xs, targets, reach):
    """Part of the carry -> log norm of each row's d loss_T / d it, [B, reach + 1], all layers.

    The loss is the surprise of the token after the last of xs [B, T]; the walk goes on from the
    carry after the first T - reach - 1 of them. These are total derivatives: what a lower layer's h
    gives the layer above at its own step counts too.
    """
    split = xs.shape[1] - reach - 1
    carry = jax.lax.stop_gradient(last(model.apply(params, xs[:, :split])))

    def loss(output):
        return jnp.sum(cross_entropy(output.logits[:, -1], targets))

    grads = carry_gradients(model.apply, loss, params, xs[:, split:], carry=carry)["rnn"]
    parts: dict[str, list[Any]] = {}
    for layer in grads.values():
        for name, leaf in named_leaves(layer).items():
            parts.setdefault(name, []).append(leaf)
    return {name: log_norm_over_time(leaves) for name, leaves in parts.items()}


def half_life(log_norm):
    """Steps in which a log norm [T], in order of time, falls by ln 2, by its mean slope."""
    steps = np.arange(len(log_norm))
    finite = np.isfinite(log_norm)
    if np.count_nonzero(finite) < 2:
        return math.nan
    slope = np.polyfit(steps[finite], np.asarray(log_norm)[finite], 1)[0]
    return float(math.log(2) / slope) if slope > 0 else math.inf


# Mixtures.


def look_at_mixtures(config, log, vocab_size, scores):
    """Perplexity of mixtures, weights by EM on the validation part."""
    own = scores["recurrent"]
    cache = {part: cache_scores(own[part], vocab_size, decay=config.cache_decay) for part in PARTS}
    members = {"with cache": [own, cache]}
    if "n-gram" in scores:
        other = scores["n-gram"]
        members |= {"with n-gram": [own, other], "with n-gram and cache": [own, other, cache]}
    alone = {name: each["test"].perplexity for name, each in scores.items()}
    best = min(alone.values())
    figures = {f"test_perplexity_{key(name)}": value for name, value in alone.items()}
    rows = [{"model": name, "weights": "", "test perplexity": alone[name]} for name in alone]
    for name, value in alone.items():
        log.write(step=0, look="mixture", mixture=name, weights=[1.0], test_perplexity=value)
    for name, each in members.items():
        weights = em_weights([part["valid"] for part in each]).weights
        perplexity = interpolate([part["test"] for part in each], weights).perplexity
        log.write(step=0, look="mixture", mixture=name, weights=weights, test_perplexity=perplexity)
        figures[f"test_perplexity_{key(name)}"] = perplexity
        gain = best - perplexity
        rows.append({"model": name, "weights": " ".join(f"{w:.3f}" for w in weights),
                     "test perplexity": perplexity, "below the best alone": gain})  # fmt: skip
        figures[f"margin_{key(name)}"] = gain
    log.table("mixtures, weights from the validation part", rows)
    return figures


def key(name):
    """A name as a key of the summary."""
    return name.replace(" ", "_").replace("-", "")


def plot(path: Path) -> None:
    """Draws the figures of a run from its files."""
    metrics = read_run(path).metrics
    figures = path / "figures"
    lines = plots.pick(metrics, look="context")
    (full,) = plots.pick(lines, kind="full")
    curves = {}
    for kind, name in (("cut", "only the last k tokens"), ("shuffled", "those before k shuffled")):
        rows = plots.pick(lines, kind=kind)
        columns = [[row[field] for row in rows] for field in ("step", "difference", "se")]
        curves[name] = columns[0], full["nats"] + np.array(columns[1]), columns[2]
    points = [(row["step"], row["perplexity"]) for row in plots.pick(lines, kind="n-gram")]
    levels = {
        "whole text before": math.exp(full["nats"]),
        f"last {full['longest']:.0f} tokens": math.exp(full["nats"] + full["window_difference"]),
    }
    number = int(full["positions"])
    figure = plots.perplexity_by_context(curves, levels, points, number=number)
    plots.save(figure, figures / "context.png")
    (passage,) = plots.pick(metrics, look="passage")
    plots.save(plots.token_surprise(passage["tokens"], passage["bits"]), figures / "surprise.png")
    rows = plots.pick(metrics, look="activations")
    panels = {
        f"{row['site']}, unit {row['unit']}: {row['criterion']} (r = {row['r']:+.2f})": (
            row["tokens"], row["values"],
        )
        for row in rows
    }  # fmt: skip
    plots.save(plots.activations_over_text(panels), figures / "activations.png")
    rows = plots.pick(metrics, look="reach")
    leaves = list(dict.fromkeys(row["leaf"] for row in rows))
    figure, axes = plots.new_figure(len(leaves), width=4.2 * len(leaves), height=3.4)
    for leaf, axis in zip(leaves, axes, strict=True):
        some = []
        for row in plots.pick(rows, leaf=leaf):
            middle, low, high = (np.array(row[name], float) for name in ("log_norm", "low", "high"))
            label = f"{row['model']}: median, 10-90 %"
            some.append(plots.Curve(label, middle, low, high))
        title = rf"$\|\partial\,loss_T / \partial {leaf}_{{T-k}}\|$, all layers"
        plots.gradient_curves(some, axis, title, before="the predicted token, k")
    plots.save(figure, figures / "gradient_reach.png")


if __name__ == "__main__":
    main(Config, run, plot)
