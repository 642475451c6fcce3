"""From an image to a sentence: convolutions read a grid of features, a decoder writes."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqlab.errors import InputError
from seqlab.models.attention import Attention
from seqlab.models.decoding import Decoding, Seq2SeqOutput, Writer
from seqlab.models.functional import functional
from seqlab.models.layers import check_rate, dropped, linear
from seqlab.types import Array, Cell

CHANNELS = 3  # red, green, blue
STRIDE = 8  # pixels a side that become one cell of the grid


class Captioner(Decoding):
    """Reads an image, then writes a sentence: p(y) = prod_t p(y_t | y_1 .. y_{t-1}, image).

    Three convolutions with ReLU make a grid of one cell for 8x8 pixels, whose features are what the
    decoder of `seqlab.models.seq2seq` knows: a memory of S = G G cells, line by line, all real,
    with their mean as what the decoder's first state is made of.

        pixels           c / 255 - 1/2
        5x5, stride 2    [size / 2, size / 2, M_1]
        3x3, stride 2    [size / 4, size / 4, M_2]
        3x3, stride 2    [G, G, M]                    G = size / 8

    Each reads two channels more, the places x and y from -1/2 to 1/2: otherwise a mean over cells
    would not know where anything is. Beyond the borders all channels are zero; as a stride of 2
    asks for, there is one step more of it behind than before.

    So far a cell knows of 17x17 pixels. Above lie `num_mixed` layers that tell it what is on each
    side of it, d being left, right, above and below (half planes, without its own line):

        x_j <- ReLU(W x_j + sum_d W_d m_dj + b),    m_dj = 1 / S sum over k on side d of j of x_k

    Both the grid and the pixels can be tapped: `Output.carries` holds "encoder" [..., S, M], the
    cells, and "image" [..., S, 192], the pixels of each cell's own 8x8, so that
    `seqlab.gradflow.pairs.pair_gradients` tells how the loss of each word depends on each place.

    Args (of the class):
      decoder: cell of its layers.
      target_size: vocabulary.
      embed_size: D, width of the embeddings.
      image_size: pixels a side, a multiple of 8.
      channels: M_1, M_2 and M.
      num_mixed: layers above the convolutions.
      num_layers, context, attention, query, input_feeding, tied, drop_inputs, dropout,
        drop_features: of `seqlab.models.seq2seq.Seq2Seq`; the encoder's last output is the mean.
      bridge: "linear" or "none", likewise.
      drop_cells: dropout of what the grid holds.

    Raises:
      InputError: options that do not go together, or sizes that cannot be.

    References: Vinyals et al., 2015 (the image as first state); Xu et al., 2015 (attention over a
    grid, first state from its mean); Liu et al., 2018 (places as channels).
    """

    def __init__(
        self,
        decoder: Cell,
        *,
        target_size: int,
        embed_size: int,
        image_size: int = 64,
        channels: tuple[int, int, int] = (32, 64, 128),
        num_mixed: int = 0,
        num_layers: int = 1,
        context: str = "attention",
        attention: Attention | None = None,
        query: str = "previous",
        input_feeding: bool = False,
        bridge: str = "linear",
        tied: bool = False,
        drop_cells: float = 0.0,
        drop_inputs: float = 0.0,
        dropout: float = 0.0,
        drop_features: float = 0.0,
        rngs: nnx.Rngs,
    ):
        self._check_decoder(
            context=context, attention=attention, query=query, input_feeding=input_feeding,
            bridge=bridge, drop_inputs=drop_inputs, drop_features=drop_features,
        )  # fmt: skip
        if bridge == "copy":
            raise InputError(
                "bridge='copy' takes the states of a recurrence, and an image has none"
            )
        if image_size < STRIDE or image_size % STRIDE:
            raise InputError(f"image_size={image_size}: expected a multiple of {STRIDE}")
        if len(channels) != 3 or min(channels) < 1:
            raise InputError(f"channels={channels}: expected three numbers of 1 or more")
        if num_mixed < 0:
            raise InputError(f"num_mixed={num_mixed}: expected 0 or more")
        check_rate("drop_cells", drop_cells)
        self.image_size, self.drop_cells = image_size, drop_cells
        first, second, last = channels
        self.stem = _conv(CHANNELS + 2, first, 5, rngs)
        self.middle = _conv(first + 2, second, 3, rngs)
        self.top = _conv(second + 2, last, 3, rngs)
        self.each = nnx.List([linear(last, last, rngs) for _ in range(num_mixed)])
        self.sides = nnx.List([linear(4 * last, last, rngs) for _ in range(num_mixed)])
        self._make_embedding(target_size, embed_size, tied, rngs)
        self._make_decoder(
            decoder, last, target_size=target_size, embed_size=embed_size, num_layers=num_layers,
            context=context, attention=attention, query=query, input_feeding=input_feeding,
            bridge=bridge, tied=tied, drop_inputs=drop_inputs, dropout=dropout,
            drop_features=drop_features, rngs=rngs,
        )  # fmt: skip

    def __call__(
        self,
        images: Array,
        mask: None,
        fed: Array,
        fed_mask: Array | None = None,
        *,
        truth: Array | None = None,
        taps: dict[str, Any] | None = None,
        weight_taps: dict[str, Any] | None = None,
        key: Array | None = None,
        **loop,
    ) -> Seq2SeqOutput:
        """Logits [..., U, V] of what follows each token of `fed` (teacher forcing).

        Args:
          images: [..., image_size, image_size, 3], bytes or real numbers from 0 to 255.
          mask: None: all of an image is real.
          fed, fed_mask, truth: of `Seq2Seq`; their leading axes are those of the images.
          taps: under "encoder", "image" and "decoder"; see the class.
          weight_taps: of the decoder.
          key: of dropout masks; None drops nothing.
          **loop: the rest of `unroll`.

        Raises:
          ValueError: images of another shape, or a mask.
        """
        if mask is not None:
            raise ValueError("Captioner: an image has no padding: give None for the mask")
        taps = taps or {}
        keys = [None] * 4 if key is None else list(jax.random.split(key, 4))
        memory, layers, patches = self._see(images, keys[0], taps.get("encoder"), taps.get("image"))
        logits, carries, attention = self._written(
            memory, layers, fed, fed_mask, truth, taps.get("decoder"),
            (weight_taps or {}).get("decoder"), keys[1:], loop,
        )  # fmt: skip
        every = {"encoder": memory.values, "image": patches, "decoder": carries}
        return Seq2SeqOutput(logits, jax.nn.softmax(logits), every, attention)

    def _read(self, sources, mask):
        if mask is not None:
            raise ValueError("Captioner: an image has no padding: give None for the mask")
        return self._see(sources, None, None, None)[:2]

    def _see(self, images, key, cell_taps, pixel_taps):
        """(memory, first carry of the decoder's layers, pixels by cell)."""
        size = self.image_size
        if images.shape[-3:] != (size, size, CHANNELS):
            raise ValueError(
                f"Captioner: images have shape {images.shape}, expected "
                f"[..., {size}, {size}, {CHANNELS}]"
            )
        dtype = self.target_embed.embedding[...].dtype
        xs = jnp.asarray(images).astype(dtype) / 255 - 0.5
        patches = _to_patches(xs)
        if pixel_taps is not None:
            patches = patches + pixel_taps
            xs = _from_patches(patches, size)
        with jax.named_scope("encoder"):
            ys = xs
            for layer in (self.stem, self.middle, self.top):
                ys = jax.nn.relu(layer(_with_places(ys)))
            grid = ys.reshape(*ys.shape[:-3], -1, ys.shape[-1])
            for each, sides in zip(self.each, self.sides, strict=True):
                grid = jax.nn.relu(each(grid) + sides(_on_sides(grid)))
        if cell_taps is not None:
            grid = grid + cell_taps
        grid = dropped(grid, self.drop_cells, key)
        real = jnp.ones(grid.shape[:-1], dtype)
        memory = self._memory(grid, real, jnp.mean(grid, axis=-2))
        return memory, self._first(memory), patches


def captioner_writer(*args: Any, **kwargs: Any) -> Writer:
    """The `Writer` of a `Captioner`; takes what `functional(Captioner, ...)` does after the class.

    Its sources are images [B, image_size, image_size, 3], its mask is None.
    """
    start = functional(Captioner, *args, **kwargs, method="start")
    step = functional(Captioner, *args, **kwargs, method="step")
    return Writer(start.apply, step.apply)


def _conv(inputs, outputs, size, rngs):
    return nnx.Conv(
        inputs, outputs, (size, size), strides=2, padding="SAME",
        kernel_init=nnx.initializers.he_normal(), param_dtype=jnp.result_type(float), rngs=rngs,
    )  # fmt: skip


def _with_places(xs):
    """[..., N, N, C] -> [..., N, N, C + 2]: how far right and how far down each place is."""
    place = jnp.linspace(-0.5, 0.5, xs.shape[-2], dtype=xs.dtype)
    right = jnp.broadcast_to(place, xs.shape[:-1])
    return jnp.concatenate([xs, jnp.stack([right, right.mT], axis=-1)], axis=-1)


def _on_sides(grid):
    """[..., G G, M] -> [..., G G, 4 M]: sums over what is left, right, above, below, over G G."""
    size = grid.shape[-2]
    down, right = np.divmod(np.arange(size), math.isqrt(size))
    less = [own[None, :] < own[:, None] for own in (right, down)]
    sides = np.stack([less[0], less[0].T, less[1], less[1].T], axis=1)  # [S, 4, S]
    found = jnp.einsum("jdk,...km->...jdm", jnp.asarray(sides / size, grid.dtype), grid)
    return found.reshape(*found.shape[:-2], -1)


def _to_patches(xs):
    """[..., 8 G, 8 G, C] -> [..., G G, 64 C], the pixels of each cell."""
    *shape, size, _, channels = xs.shape
    side = size // STRIDE
    xs = xs.reshape(*shape, side, STRIDE, side, STRIDE, channels)
    return jnp.swapaxes(xs, -3, -4).reshape(*shape, side * side, STRIDE * STRIDE * channels)


def _from_patches(patches, size):
    """The inverse of `_to_patches`."""
    *shape, _, width = patches.shape
    side, channels = size // STRIDE, width // STRIDE**2
    xs = patches.reshape(*shape, side, side, STRIDE, STRIDE, channels)
    return jnp.swapaxes(xs, -3, -4).reshape(*shape, size, size, channels)
