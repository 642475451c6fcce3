"""How many tokens a second does a language model train on, next to the same model in PyTorch?

    SEQLAB_DATA_MIRROR=... python -m experiments.benchmarks.language_models
    python -m experiments.benchmarks.language_models --models zaremba_small

The models are presets of `experiments.rnn_lm`, by default the small and the medium net of Zaremba
et al. (2014): B = 20 streams of Penn Treebank, or of a generated Zipf text of as many words where
it cannot be had, the carry kept from batch to batch and detached. One update is forward, backward,
clipping and SGD, float32, dropout included. Ours is the study's own training step as its session
runs it, norms included, the batch shared out over one XLA device a core where it is large enough.
PyTorch's is `nn.Embedding`, `nn.LSTM`, `nn.Linear`,
`cross_entropy`, `clip_grad_norm_` and `SGD`, with as many threads as there are cores.

Both take the same batches in turn in one process, the order turned every other round. The rate is
of the median round, the ratio the median of the rounds' own; the loss after all rounds, on the same
few batches over and over, tells that both learn alike. Without torch (extra `peers`) its rows
are absent. Run it alone on the machine.
"""

import importlib
import importlib.util
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import numpy as np

from seqlab.cli import main
from seqlab.data.batching import Streams
from seqlab.data.checks import check_at_least, check_distinct, check_known
from seqlab.data.synthetic import zipf_phrases
from seqlab.data.text import text_parts
from seqlab.data.vocabulary import Words
from seqlab.devices import Devices, num_cores
from seqlab.errors import InputError
from seqlab.runlog import RunLog, processor
from seqlab.session import compile_step
from seqlab.timing import time_variants

STUDY = "experiments.rnn_lm"
MODELS = ("zaremba_small", "zaremba_medium", "zaremba_large")


@dataclass(frozen=True)
class Config:
    """Training throughput of recurrent language models, next to PyTorch."""

    models: tuple[str, ...] = ("zaremba_small", "zaremba_medium")
    """of zaremba_small, zaremba_medium, zaremba_large"""
    hidden_size: int | None = None
    """H, also the width of the embedding; the preset's if None"""
    seq_len: int | None = None
    """T; the preset's if None"""
    batch_size: int = 20
    """B, streams"""
    text: str = "ptb"
    """ptb, or zipf for a generated one"""
    vocab_size: int = 10_000
    """words of the generated text"""
    num_tokens: int = 929_589
    """of the generated text, at most"""
    steps: int = 10
    """updates a round"""
    rounds: int = 11
    """timed rounds"""
    num_devices: int | None = None
    """XLA devices that share out a batch; by default as training takes them"""
    seed: int = 0

    def __post_init__(self):
        """Raises `InputError` for what cannot be run."""
        check_distinct(self.models, "models")
        for name in self.models:
            check_known(name, MODELS, "model")
        check_known(self.text, ("ptb", "zipf"), "text")
        for field in ("batch_size", "vocab_size", "num_tokens", "steps", "rounds"):
            check_at_least(getattr(self, field), 1, field)
        for field in ("hidden_size", "seq_len", "num_devices"):
            if getattr(self, field) is not None:
                check_at_least(getattr(self, field), 1, field)

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs."""
        return cls(
            models=("zaremba_medium",), hidden_size=8, seq_len=5, text="zipf", vocab_size=50,
            num_tokens=3000, steps=2, rounds=3,
        )  # fmt: skip


def run(config: Config, log: RunLog) -> None:
    """Times every model, ours and PyTorch's."""
    has_torch = importlib.util.find_spec("torch") is not None
    if not has_torch:
        log.note("torch: left out, not installed: pip install -e '.[peers]'")
    text, vocabulary, ids = read(config, log)
    rows, ratios = [], {}
    for name in config.models:
        model, reach = settings(config, name)
        streams = Streams(ids, config.batch_size, model.seq_len)
        batches = [streams.batch(k % streams.batches_per_epoch) for k in range(config.steps)]
        calls: dict[str, Callable[[], float]] = {"seqlab": ours(model, vocabulary, batches)}
        if has_torch:
            calls["torch"] = theirs(model, len(vocabulary), batches, reach)
        seconds = time_variants(calls, config.rounds)
        num_tokens = sum(int(batch["mask"].sum()) for batch in batches)
        if has_torch:
            pairs = zip(seconds["torch"], seconds["seqlab"], strict=True)
            ratios[name] = statistics.median(torch_s / own_s for torch_s, own_s in pairs)
        for label, times in seconds.items():
            each = statistics.median(times) / config.steps
            log.write(step=0, model=name, variant=label, rounds=config.rounds, text=text)
            rows.append(
                {
                    "model": name, "variant": label, "H": model.hidden_size, "T": model.seq_len,
                    "tokens_per_s": num_tokens / config.steps / each, "median_ms": each * 1e3,
                    "least_ms": min(times) / config.steps * 1e3, "final_loss": calls[label](),
                    "x_torch": ratios.get(name) if label == "seqlab" else None,
                }
            )  # fmt: skip
    log.table(f"{text}, V={len(vocabulary)}, B={config.batch_size}: a training step", rows)
    log.finish(rows=rows, x_torch=ratios, text=text, machine=machine(config, has_torch))


def read(config, log):
    """Name, vocabulary and ids of the text that both train on."""
    if config.text == "ptb":
        try:
            text = text_parts("ptb")["train"]
        except InputError as error:
            log.note(f"{error}: a generated text instead")
        else:
            vocabulary = Words.of(text)
            return "Penn Treebank", vocabulary, vocabulary.encode_lines(text)
    ids = np.concatenate([*zipf_phrases(config.num_tokens, config.vocab_size, config.seed)])
    return "Zipf", Words(tuple(f"w{k}" for k in range(config.vocab_size))), ids


def settings(config, name):
    """The study's config of a preset at these sizes, and the range of its first weights."""
    study = importlib.import_module(STUDY)
    preset = study.Config.presets()[name]
    size = config.hidden_size or preset.hidden_size
    chosen = replace(
        preset, hidden_size=size, embed_size=size, seq_len=config.seq_len or preset.seq_len,
        batch_size=config.batch_size, num_devices=config.num_devices, seed=config.seed,
    )  # fmt: skip
    return chosen, preset.init_range


def ours(config, vocabulary, batches):
    """A call that takes an update a batch as a `Session` does, and goes on where it ended."""
    study = importlib.import_module(STUDY)
    step, state = study.build(config, {"vocabulary": vocabulary.to_json()})
    shared = Devices.sharing(config.batch_size, config.num_devices)
    state = state if shared is None else shared.put_state(state)
    compiled = compile_step(step, state, shared)

    def call():
        nonlocal state
        for batch in batches:
            state, metrics = compiled(state, batch if shared is None else shared.put_batch(batch))
        jax.block_until_ready((state, metrics))
        return float(metrics["loss"])

    return call


def theirs(config, vocab_size, batches, reach):
    """The same by PyTorch, time before batch, as its LSTM prefers it."""
    import torch

    torch.manual_seed(config.seed)
    torch.set_num_threads(num_cores())
    width, between = config.hidden_size, config.drop_between
    embed = torch.nn.Embedding(vocab_size, width)
    lstm = torch.nn.LSTM(width, width, config.num_layers, dropout=between)
    head = torch.nn.Linear(width, vocab_size)
    inputs, outputs = torch.nn.Dropout(config.drop_inputs), torch.nn.Dropout(config.drop_outputs)
    weights = [*embed.parameters(), *lstm.parameters(), *head.parameters()]
    for leaf in weights:
        torch.nn.init.uniform_(leaf, -reach, reach)
    optimizer = torch.optim.SGD(weights, lr=config.learning_rate)
    zeros = torch.zeros(config.num_layers, config.batch_size, width)
    states = (zeros, zeros)
    pairs = [
        tuple(torch.from_numpy(np.ascontiguousarray(batch[name].T)).long()
              for name in ("xs", "targets"))
        for batch in batches
    ]  # fmt: skip
    masks = [torch.from_numpy(np.ascontiguousarray(batch["mask"].T)).float() for batch in batches]
    resets = [bool(batch["reset"][0]) for batch in batches]

    def call():
        nonlocal states
        for (xs, targets), mask, is_new in zip(pairs, masks, resets, strict=True):
            states = (zeros, zeros) if is_new else tuple(leaf.detach() for leaf in states)
            ys, states = lstm(inputs(embed(xs)), states)
            logits = head(outputs(ys)).reshape(-1, vocab_size)
            if mask.all():
                loss = torch.nn.functional.cross_entropy(logits, targets.reshape(-1))
            else:
                nats = torch.nn.functional.cross_entropy(
                    logits, targets.reshape(-1), reduction="none"
                )
                loss = (nats * mask.reshape(-1)).sum() / mask.sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, config.clip_norm)
            optimizer.step()
        return loss.item()

    return call


def machine(config, has_torch):
    """One line: processor, devices, threads and versions."""
    shared = Devices.sharing(config.batch_size, config.num_devices)
    parts = [processor(), f"{num_cores()} cores", f"{shared.count if shared else 1} XLA device(s)",
             f"jax {jax.__version__}"]  # fmt: skip
    if has_torch:
        import torch

        parts += [f"torch {torch.__version__}", f"{torch.get_num_threads()} torch threads"]
    return ", ".join(parts)


if __name__ == "__main__":
    main(Config, run)
