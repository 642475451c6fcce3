"""From images with sentences to a net that was trained on them, and back to sentences.

Targets are `<sos>`, words, `<eos>`, as in `seqlab.translator`, whose `Teller` this is for images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from seqlab.cells.lookup import make_cell
from seqlab.data.batching import Batch, Buckets, pad_tokens
from seqlab.data.vocabulary import Vocabulary
from seqlab.gradflow.pairs import pair_gradients
from seqlab.losses import cross_entropy
from seqlab.models.attention import Attention
from seqlab.models.captioner import STRIDE, Captioner, captioner_writer
from seqlab.models.decoding import Seq2SeqOutput, Writer
from seqlab.models.functional import functional
from seqlab.translator import Fed, Teller
from seqlab.types import Model, Params

ROWS = 64  # images that are read together


@dataclass(frozen=True)
class CaptionPlan:
    """What a captioner is; the names of the fields are those of an experiment's config.

    Attributes:
      cell: name of the decoder's cell.
      image_size: pixels a side.
      channels, num_mixed, embed_size, hidden_size, num_layers, context, query, input_feeding,
        bridge, tied, drop_cells, drop_inputs, dropout, drop_features: of
        `seqlab.models.captioner.Captioner`.
      attention: kind of attention, where the context is "attention".
    """

    cell: str
    image_size: int
    channels: tuple[int, int, int]
    num_mixed: int
    embed_size: int
    hidden_size: int
    num_layers: int
    context: str
    attention: str
    query: str
    input_feeding: bool
    bridge: str
    tied: bool
    drop_cells: float
    drop_inputs: float
    dropout: float
    drop_features: float

    @classmethod
    def of(cls, config: Any, image_size: int) -> "CaptionPlan":
        """The plan that an experiment's config holds, by the names of its fields."""
        names = set(cls.__dataclass_fields__) - {"image_size"}
        return cls(image_size=image_size, **{name: getattr(config, name) for name in names})

    @property
    def grid(self) -> int:
        """Cells a side."""
        return self.image_size // STRIDE

    def parts(self, target_size: int) -> tuple[Model, Writer]:
        """The model for a vocabulary of this size, and the same as it writes."""
        attends = self.context == "attention"
        cell = make_cell(self.cell, self.hidden_size)
        options = {name: getattr(self, name) for name in self.__dataclass_fields__}
        del options["cell"], options["hidden_size"]
        options["attention"] = (
            Attention(self.attention, max_steps=self.grid**2) if attends else None
        )
        options["target_size"] = target_size
        return functional(Captioner, cell, **options), captioner_writer(cell, **options)


class Pictures:
    """Batches of images with a sentence each, by the length of the sentence.

    A batch is one of `seqlab.translator.Fed` whose `xs` are the images, [B, size, size, 3] bytes,
    and which has no `mask`. An epoch has each sentence once, with its image.

    Args (of the class):
      images: [N, size, size, 3].
      members: of each sentence, the number of its image.
      targets: of each sentence, its tokens from <sos> to <eos>.
      **how: what `Buckets` takes by name.
    """

    def __init__(
        self, images: np.ndarray, members: Sequence[int], targets: list[np.ndarray], **how: Any
    ):
        self._images = images
        self._buckets = Buckets([np.array([i], np.int32) for i in members], targets, **how)
        self._fed = Fed(self._buckets)

    @property
    def batches_per_epoch(self) -> int:
        """Batches in which every sentence is seen once."""
        return self._fed.batches_per_epoch

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The distinct shapes of batches, (B, U)."""
        return tuple((rows, length - 1) for rows, _, length in self._buckets.shapes)

    def batch(self, number: int) -> Batch:
        """Batch `number`, always the same."""
        batch = self._fed.batch(number)
        batch["xs"] = self._images[batch["xs"][:, 0]]
        del batch["mask"]
        return batch


class ImageLooks(NamedTuple):
    """What `Describer.looks` has found.

    Attributes:
      log_norms: of d loss_s / d pixels of each cell's own place, natural, [B, U, S].
      attention: weights over the cells, [B, U, S], or None.
      label_mask: which of the U words are real, [B, U].
    """

    log_norms: np.ndarray
    attention: np.ndarray | None
    label_mask: np.ndarray


@dataclass(frozen=True)
class Describer(Teller):
    """A captioner with its vocabulary, reading images and writing sentences.

    Attributes:
      plan: of the model.
      words: vocabulary of the sentences.
      nets: how many nets write together.
    """

    plan: CaptionPlan
    words: Vocabulary
    nets: int = 1
    compiled: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def parts(self) -> tuple[Model, Writer]:
        """The model, and the same as it writes."""
        return self.plan.parts(len(self.words))

    @property
    def vocabulary(self) -> Vocabulary:
        """Of the sentences."""
        return self.words

    def sources(self, sources: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The images, as they are."""
        return list(sources)

    def batch(self, read: Sequence[np.ndarray], longest: int) -> tuple[np.ndarray, None]:
        """Images [B, size, size, 3]; all of them is real."""
        return np.stack(read), None

    def features(self, params: Params, images: np.ndarray) -> np.ndarray:
        """The mean of each image's grid, [N, M]."""
        if "features" not in self.compiled:
            self.compiled["features"] = jax.jit(
                lambda params, images: self.writer.start(params, images, None)[0].last
            )
        found = []
        for first in range(0, len(images), ROWS):
            chosen = images[first : first + ROWS]
            filled = np.concatenate([chosen, np.repeat(chosen[:1], ROWS - len(chosen), axis=0)])
            found.append(np.asarray(self.compiled["features"](params, filled))[: len(chosen)])
        return np.concatenate(found)

    def looks(
        self, params: Params, images: np.ndarray, sentences: Sequence[np.ndarray]
    ) -> ImageLooks:
        """How the loss of each word of some sentences depends on each place of their images.

        Args:
          params: of the model.
          images: [B, size, size, 3].
          sentences: of each, tokens from <sos> to <eos>.
        """
        whole, real = pad_tokens(sentences, max(map(len, sentences)))
        fed, labels, fed_mask = whole[:, :-1], whole[:, 1:], real[:, 1:]

        def measure(params, images, fed, labels, fed_mask):
            def losses(output):
                return jnp.where(fed_mask, cross_entropy(output.logits, labels), 0.0)

            inputs = (images, None, fed, fed_mask)
            norms = pair_gradients(
                self.model.apply, losses, params, *inputs, source="image", batch_size=4
            )
            output = cast(Seq2SeqOutput, self.model.apply(params, *inputs))
            return norms, output.attention

        if "looks" not in self.compiled:
            self.compiled["looks"] = jax.jit(measure)
        norms, attention = self.compiled["looks"](params, images, fed, labels, fed_mask)
        attention = None if attention is None else np.asarray(attention, float)
        return ImageLooks(np.asarray(norms, float), attention, fed_mask)
