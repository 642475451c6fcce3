"""How many sentences a second does beam search write, next to the same search in PyTorch?

    python -m experiments.translation --dataset multi30k_de_en --out runs/multi30k
    python -m experiments.benchmarks.decoding --run runs/multi30k

The test part of a finished run of `experiments.translation` is written with the run's own weights
by `seqlab.models.decode.beam_search`, a compiled program, and by the same search written for
PyTorch: the same weights, sentences in the same batches of like length, all outputs of a batch at
once, one wait for the device a token, as many threads as there are cores. PyTorch pads a batch to
its own longest sentence, ours all batches to that of the set, so that one program does for all.
Both stop a batch when all of its sentences have their outputs. Without `--run` a net with fresh
weights writes, for the sentences of Multi30k, or made-up ones (`--dataset reverse`): its outputs
then go on to `--max-length`.

Both take turns in one process, the order turned every other round; the rate is of the median
round, the ratio the median of the rounds' own. `same` is the share of sentences of which both
wrote the very same; `compiled` counts the programs that ours has after all batches. Without torch
(extra `peers`) its row is absent. Run it alone on the machine.
"""

import importlib
import importlib.util
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from seqlab.cells.convert import stack_to_torch, to_torch
from seqlab.cells.lookup import make_cell
from seqlab.cli import main
from seqlab.data.batching import pad_tokens
from seqlab.data.checks import check_at_least
from seqlab.data.vocabulary import EOS, PAD, SOS, UNK
from seqlab.devices import num_cores
from seqlab.errors import InputError
from seqlab.runlog import RunLog, processor
from seqlab.timing import time_variants
from seqlab.translator import learn_sides, sides_to_json

STUDY = "experiments.translation"
BANNED = (PAD, SOS, UNK)


@dataclass(frozen=True)
class Config:
    """Sentences a second of beam search, next to PyTorch."""

    run: Path | None = None
    """a finished run of experiments.translation; None: fresh weights"""
    dataset: str = "multi30k_de_en"
    """of fresh weights: whose sentences are read"""
    beam_size: int = 5
    """outputs that are followed at once"""
    length_penalty: float = 1.0
    """exponent of ((5 + length) / 6)"""
    batch_size: int = 64
    """B, sentences at once"""
    num_sentences: int = 1000
    """of the test part, at most"""
    max_length: int = 50
    """tokens of an output at most"""
    hidden_size: int = 256
    """H of fresh weights, also the width of their embeddings"""
    rounds: int = 9
    """timed rounds"""
    seed: int = 0

    def __post_init__(self):
        """Raises `InputError` for what cannot be run."""
        for field in ("beam_size", "batch_size", "num_sentences", "max_length", "hidden_size",
                      "rounds"):  # fmt: skip
            check_at_least(getattr(self, field), 1, field)

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs."""
        return cls(
            dataset="reverse", beam_size=2, num_sentences=20, batch_size=8, max_length=6,
            hidden_size=8, rounds=3,
        )  # fmt: skip


def run(config: Config, log: RunLog) -> None:
    """Writes the test part by both, in turns."""
    has_torch = importlib.util.find_spec("torch") is not None
    if not has_torch:
        log.note("torch: left out, not installed: pip install -e '.[peers]'")
    translator, params, texts, name = model(config)
    calls: dict[str, Callable[[], list[str]]] = {
        "seqlab": lambda: ours(config, translator, params, texts)
    }
    if has_torch:
        net = torch_net(translator, params)
        calls["torch"] = lambda: theirs(config, translator, net, texts)
    seconds = time_variants(calls, config.rounds)
    ratio, same = None, None
    outputs = {label: call() for label, call in calls.items()}
    if has_torch:
        pairs = zip(seconds["torch"], seconds["seqlab"], strict=True)
        ratio = statistics.median(torch_s / own_s for torch_s, own_s in pairs)
        both = zip(outputs["torch"], outputs["seqlab"], strict=True)
        same = float(np.mean([one == other for one, other in both]))
    programs = sum(program._cache_size() for program in translator.compiled.values())
    rows = [
        {
            "variant": label, "sentences_per_s": len(texts) / statistics.median(times),
            "median_s": statistics.median(times), "least_s": min(times),
            "x_torch": ratio if label == "seqlab" else None,
            "same": same if label == "seqlab" else None,
            "compiled": programs if label == "seqlab" else None,
        }
        for label, times in seconds.items()
    ]  # fmt: skip
    for row in rows:
        log.write(step=0, rounds=config.rounds, variant=row["variant"])
    log.table(f"{name}: {len(texts)} sentences, beam {config.beam_size}", rows)
    log.finish(rows=rows, x_torch=ratio, same=same, compiled_programs=programs, text=name,
               machine=machine(has_torch))  # fmt: skip


def model(config: Config):
    """Translator, parameters, sentences to read, and the name of their set."""
    study: Any = importlib.import_module(STUDY)
    if config.run is not None:
        own, params, files = study.load_run(config.run)
        data = study.load(own)
    else:
        own = replace(
            study.Config(dataset=config.dataset), hidden_size=config.hidden_size,
            embed_size=config.hidden_size, seed=config.seed,
        ).filled()  # fmt: skip
        data = study.load(own)
        sides = learn_sides(
            data.sources["train"], data.targets["train"], (data.source_level, data.target_level),
            min_count=own.min_count, max_size=None,
        )  # fmt: skip
        files = {"vocabularies": sides_to_json(sides), "max_source": 1}
        params = None
    translator = study.translator_of(own, files)
    plan = translator.plan
    if (plan.cell, plan.context, plan.attention, plan.query, plan.num_layers, plan.bridge,
        plan.bidirectional, plan.reverse_source) != (
        "gru-after", "attention", "additive", "previous", 1, "linear", True, False,
    ):  # fmt: skip
        raise InputError(
            f"{config.run or config.dataset}: the peer is one layer of a GRU with additive "
            "attention by the previous state, read both ways: train that"
        )
    if params is None:
        params = jax.jit(translator.model.init)(jax.random.key(config.seed))
    texts = list(dict.fromkeys(data.sources["test"]))[: config.num_sentences]
    return translator, params, texts, data.name


def ours(config, translator, params, texts) -> list[str]:
    """The best output of each."""
    found = translator.write(
        params, texts, beam_size=config.beam_size, max_length=config.max_length,
        length_penalty=config.length_penalty, batch_size=config.batch_size,
    )  # fmt: skip
    return [own[0].text for own in found]


def torch_net(translator, params):
    """The model as modules of PyTorch, with the same weights."""
    import torch

    nn = torch.nn
    torch.set_num_threads(num_cores())
    plan = translator.plan
    cell = make_cell(plan.cell, plan.hidden_size)
    width, size = 2 * plan.hidden_size, plan.hidden_size
    num_targets, embed_size = params["target_embed"]["embedding"].shape
    readout_size = params["readout"]["kernel"].shape[1]
    net = nn.ModuleDict(
        {
            "source_embed": nn.Embedding(len(translator.sides[0]), embed_size),
            "target_embed": nn.Embedding(num_targets, embed_size),
            "encoder": nn.GRU(embed_size, size, batch_first=True, bidirectional=True),
            "bridge": nn.Linear(width, size),
            "decoder": nn.GRUCell(embed_size + width, size),
            "W_q": nn.Linear(size, size, bias=False),
            "W_m": nn.Linear(width, size, bias=False),
            "v": nn.Linear(size, 1, bias=False),
            "readout": nn.Linear(size + width + embed_size, readout_size),
            "head": nn.Linear(readout_size, num_targets),
        }
    )
    own = jax.tree.map(np.asarray, params)
    attention, head = own["attention"]["weights"], own["head"]
    kernel = head.get("kernel", own["target_embed"]["embedding"].T)
    leaves = {
        "source_embed.weight": own["source_embed"]["embedding"],
        "target_embed.weight": own["target_embed"]["embedding"],
        **stack_to_torch([cell], own["encoder"]["weights"], bidirectional=True, prefix="encoder."),
        "bridge.weight": own["bridges"][0]["kernel"].T,
        "bridge.bias": own["bridges"][0]["bias"],
        **to_torch(cell, own["decoder"]["weights"]["layer_0"], layer=None, prefix="decoder."),
        "W_q.weight": attention["W_q"].T,
        "W_m.weight": attention["W_m"].T,
        "v.weight": attention["v"][None],
        "readout.weight": own["readout"]["kernel"].T,
        "readout.bias": own["readout"]["bias"],
        "head.weight": kernel.T,
        "head.bias": head["bias"],
    }
    net.load_state_dict({name: torch.from_numpy(np.array(leaf)) for name, leaf in leaves.items()})
    return net.eval()


def theirs(config, translator, net, texts) -> list[str]:
    """The best output of each, by PyTorch."""
    import torch

    sources = translator.sources(texts)
    order = np.argsort([len(each) for each in sources], kind="stable")
    outputs = [""] * len(texts)
    with torch.inference_mode():
        for first in range(0, len(texts), config.batch_size):
            chosen = order[first : first + config.batch_size]
            xs, mask = pad_tokens(
                [sources[i] for i in chosen], max(len(sources[i]) for i in chosen)
            )
            tokens, lengths = torch_search(
                net, torch.from_numpy(xs).long(), torch.from_numpy(mask), config
            )
            for row, which in enumerate(chosen.tolist()):
                ids = tokens[row, : lengths[row]]
                outputs[which] = translator.sides[1].decode(ids[ids != EOS])
    return outputs


def torch_search(net, xs, mask, config):
    """Tokens [B, L] and lengths [B] of the best outputs; the rules are those of `beam_search`."""
    import torch

    size, num_rows = config.beam_size, len(xs)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        net["source_embed"](xs), mask.sum(dim=1), batch_first=True, enforce_sorted=False
    )
    ys, last = net["encoder"](packed)
    values = torch.nn.utils.rnn.pad_packed_sequence(ys, batch_first=True)[0]
    keys = net["W_m"](values)[:, None]
    hidden = ~mask[:, None]
    state = torch.tanh(net["bridge"](torch.cat([last[0], last[1]], dim=-1)))
    state = state[:, None].expand(-1, size, -1).contiguous()
    never = torch.tensor(BANNED)

    words = torch.full((num_rows, size), SOS)
    totals = torch.full((num_rows, size), -torch.inf)
    totals[:, 0] = 0.0
    tokens = torch.full((num_rows, size, config.max_length), PAD)
    ended = {
        "scores": totals.new_full((num_rows, size), -torch.inf),
        "lengths": torch.zeros((num_rows, size), dtype=torch.long),
        "tokens": tokens.clone(),
    }
    is_done, length = torch.zeros(num_rows, dtype=torch.bool), 0
    for step in range(config.max_length):
        e = net["target_embed"](words)
        scores = net["v"](torch.tanh(net["W_q"](state)[:, :, None] + keys))[..., 0]
        weights = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1)
        context = torch.bmm(weights, values)
        state = net["decoder"](
            torch.cat([e, context], dim=-1).flatten(0, 1), state.flatten(0, 1)
        ).unflatten(0, (num_rows, size))
        features = torch.tanh(net["readout"](torch.cat([state, context, e], dim=-1)))
        log_probs = net["head"](features).log_softmax(dim=-1)
        log_probs[..., never] = -torch.inf
        num_words = log_probs.shape[-1]
        best, places = (totals[..., None] + log_probs).flatten(1).topk(min(2 * size, num_words))
        parents, words = places // num_words, places % num_words
        ends = words == EOS
        length = step + 1

        new = best[:, :size] / ((5 + length) / 6) ** config.length_penalty
        new = new.masked_fill(~ends[:, :size] | is_done[:, None], -torch.inf)
        if (new > -torch.inf).any():
            paths = torch_of(tokens, parents[:, :size])
            paths[:, :, step] = EOS
            ended["scores"], kept = torch.cat([ended["scores"], new], dim=1).topk(size)
            fresh = {"lengths": torch.full_like(ended["lengths"], length), "tokens": paths}
            for name, leaf in fresh.items():
                ended[name] = torch_of(torch.cat([ended[name], leaf], dim=1), kept)
        totals, kept = best.masked_fill(ends, -torch.inf).topk(size)
        worst = ended["scores"][:, -1]
        hope = totals[:, 0] / ((5 + length) / 6) ** config.length_penalty
        is_done |= (worst > -torch.inf) & (worst >= hope)
        if is_done.all():
            break
        parents, words = parents.gather(1, kept), words.gather(1, kept)
        tokens, state = torch_of(tokens, parents), torch_of(state, parents)
        tokens[:, :, step] = words
    # Where nothing has ended the likeliest output is cut off.
    found = ended["scores"][:, 0] > -torch.inf
    best = torch.where(found[:, None], ended["tokens"][:, 0], tokens[:, 0])
    return best.numpy(), torch.where(found, ended["lengths"][:, 0], length).numpy()


def torch_of(leaf, places):
    """Entries [B, K, ...] of a leaf [B, J, ...] at places [B, K]."""
    rows = places.reshape(*places.shape, *[1] * (leaf.ndim - 2))
    return leaf.gather(1, rows.expand(*places.shape, *leaf.shape[2:]))


def machine(has_torch: bool) -> str:
    """One line: processor, cores, versions."""
    parts = [processor(), f"{num_cores()} cores", f"jax {jax.__version__}"]
    if has_torch:
        import torch

        parts += [f"torch {torch.__version__}", f"{torch.get_num_threads()} torch threads"]
    return ", ".join(parts)


if __name__ == "__main__":
    main(Config, run)
