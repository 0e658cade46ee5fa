"""The Conformer, with the names that it has in MusicFM's published code.

Those are of ``transformers``' wav2vec 2.0-Conformer, which is not needed here.
"""

import math
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from musicfm.model import encoder, published
from musicfm.model.config import ConformerConfig
from musicfm.model.encoder import (
    Conv1d,
    inverse_frequencies,
    rotate,
    rotation_of,
    run_block,
)
from musicfm.model.mel import Float32Buffers
from musicfm.model.published import POSITION_GROUPS, POSITION_KERNEL


class ConformerOutput(NamedTuple):
    """What :class:`Conformer` returns; items have names, too: ``output["hidden_states"]``."""

    last_hidden_state: Tensor
    """(batch, time, dim), after the final LayerNorm."""
    hidden_states: tuple[Tensor, ...] | None = None
    """(batch, time, dim) each: the input, and what every layer gives; the last one is normed."""
    attentions: tuple[Tensor, ...] | None = None
    """(batch, heads, time, time) of each layer."""

    def __getitem__(self, key: Any) -> Any:
        return self._asdict()[key] if isinstance(key, str) else self.to_tuple()[key]

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def keys(self) -> list[str]:
        """Names of what was asked for."""
        return [name for name, value in self._asdict().items() if value is not None]

    def to_tuple(self) -> tuple[Any, ...]:
        """What was asked for."""
        return tuple(value for value in tuple(self) if value is not None)


class Conformer(nn.Module):
    """Layers, and a final LayerNorm: see :class:`musicfm.model.encoder.Encoder`."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.config = SimpleNamespace(
            hidden_size=config.dim,
            num_hidden_layers=config.depth,
            num_attention_heads=config.num_heads,
            intermediate_size=config.ffn_dim,
            hidden_act="swish",
            hidden_dropout=config.dropout,
            attention_dropout=config.dropout,
            activation_dropout=config.dropout,
            layerdrop=0.0,
            layer_norm_eps=1e-5,
            conv_depthwise_kernel_size=config.conv_kernel,
            position_embeddings_type="rotary",
            rotary_embedding_base=encoder.ROTARY_BASE,
            num_conv_pos_embeddings=POSITION_KERNEL,
            num_conv_pos_embedding_groups=POSITION_GROUPS,
        )
        self.embed_positions = RotaryPositions(config)
        self.pos_conv_embed = UnusedPositions(config.dim)
        self.layer_norm = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(ConformerLayer(config) for _ in range(config.depth))
        self.gradient_checkpointing = False

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        num_layers: int | None = None,
    ) -> ConformerOutput | tuple[Any, ...]:
        """Runs the layers.

        Args:
            hidden_states: (batch, time, dim).
            attention_mask: (batch, time), True or 1 for the frames that belong to a clip.
            output_attentions: whether the weights of attention are returned, too.
            output_hidden_states: whether all hidden states are returned, too.
            return_dict: whether the result has names, or is a tuple of what was asked for.
            num_layers: how many layers are run, without the final LayerNorm. None: all, with it.
        """
        x, mask = hidden_states, None
        if attention_mask is not None:
            mask = attention_mask.bool()
            x = x.masked_fill(~mask[..., None], 0.0)
        x = self.dropout(x)
        positions = self.embed_positions(x)
        states, attentions = [x], []
        for layer in self.layers[:num_layers]:
            x, weights = run_block(
                layer,
                x,
                mask,
                positions,
                output_attentions,
                recompute=self.gradient_checkpointing and self.training,
            )
            attentions.append(weights)
            states = [*states, x] if output_hidden_states else [x]
        if num_layers is None:
            states[-1] = self.layer_norm(x)
        output = ConformerOutput(
            states[-1],
            tuple(states) if output_hidden_states else None,
            tuple(attentions) if output_attentions else None,
        )
        return output if return_dict else output.to_tuple()


class ConformerLayer(nn.Module):
    """See :class:`musicfm.model.encoder.ConformerBlock`."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.ffn1_layer_norm = nn.LayerNorm(config.dim)
        self.ffn1 = FeedForward(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.dim)
        self.self_attn_dropout = nn.Dropout(config.dropout)
        self.self_attn = SelfAttention(config)
        self.conv_module = ConvolutionModule(config)
        self.ffn2_layer_norm = nn.LayerNorm(config.dim)
        self.ffn2 = FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(config.dim)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        relative_position_embeddings: Tensor | None = None,
        output_attentions: bool = False,
        conv_attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Runs the layer.

        Args:
            hidden_states: (batch, time, dim).
            attention_mask: (batch, time) bool, True for the frames that belong to a clip; or what
                is added to the scores, of a shape that broadcasts to (batch, heads, time, time).
            relative_position_embeddings: of :class:`RotaryPositions`. None: computed here.
            output_attentions: whether the weights of attention are returned, too.
            conv_attention_mask: (batch, time) for the convolution. None: the attention's, if that
                has two dimensions.

        Returns:
            (batch, time, dim), and (batch, heads, time, time) or None.
        """
        x, mask = hidden_states, conv_attention_mask
        if mask is None and attention_mask is not None and attention_mask.dim() == 2:
            mask = attention_mask
        x = x + 0.5 * self.ffn1(self.ffn1_layer_norm(x))
        attended, weights = self.self_attn(
            self.self_attn_layer_norm(x),
            attention_mask=attention_mask,
            relative_position_embeddings=relative_position_embeddings,
            output_attentions=output_attentions,
        )
        x = x + self.self_attn_dropout(attended)
        x = x + self.conv_module(x, None if mask is None else mask.bool())
        x = x + 0.5 * self.ffn2(self.ffn2_layer_norm(x))
        return self.final_layer_norm(x), weights


class FeedForward(nn.Module):
    """See :class:`musicfm.model.encoder.FeedForward`, whose LayerNorm is the layer's here."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.intermediate_dropout = nn.Dropout(config.dropout)
        self.intermediate_dense = nn.Linear(config.dim, config.ffn_dim)
        self.output_dense = nn.Linear(config.ffn_dim, config.dim)
        self.output_dropout = nn.Dropout(config.dropout)

    def forward(self, hidden_states: Tensor) -> Tensor:
        x = self.intermediate_dropout(F.silu(self.intermediate_dense(hidden_states)))
        return self.output_dropout(self.output_dense(x))


class SelfAttention(encoder.SelfAttention):
    """See :class:`musicfm.model.encoder.SelfAttention`, whose LayerNorm is the layer's here."""

    query: Any = property(lambda self: self.linear_q)
    key: Any = property(lambda self: self.linear_k)
    value: Any = property(lambda self: self.linear_v)
    out: Any = property(lambda self: self.linear_out)

    def __init__(self, config: ConformerConfig) -> None:
        nn.Module.__init__(self)
        self.config = config
        self.num_heads, self.head_size = config.num_heads, config.dim // config.num_heads
        self.linear_q = nn.Linear(config.dim, config.dim)
        self.linear_k = nn.Linear(config.dim, config.dim)
        self.linear_v = nn.Linear(config.dim, config.dim)
        self.linear_out = nn.Linear(config.dim, config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        relative_position_embeddings: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """See :meth:`ConformerLayer.forward`."""
        x, mask = hidden_states, attention_mask
        if mask is not None and mask.dim() == 2:
            mask = mask[:, None, None].bool()
        if relative_position_embeddings is None:
            rotation = rotation_of(x, inverse_frequencies(self.config).to(x.device))
        else:
            cos, sin = relative_position_embeddings[:, : x.shape[1], 0]
            rotation = cos, sin
        weights = self._weights(x, rotation, mask) if output_attentions else None
        return self.attend(x, rotation, mask), weights

    def _weights(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        rotated = rotate(x, rotation, self.num_heads)
        query, key = self._heads(self.linear_q(rotated)), self._heads(self.linear_k(rotated))
        scores = query @ key.mT / math.sqrt(self.head_size)
        if mask is not None and mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, -torch.inf)
        elif mask is not None:
            scores = scores + mask
        return scores.softmax(dim=-1)


class ConvolutionModule(encoder.ConvolutionModule):
    """See :class:`musicfm.model.encoder.ConvolutionModule`."""

    norm: Any = property(lambda self: self.layer_norm)
    pointwise1: Any = property(lambda self: self.pointwise_conv1)
    depthwise: Any = property(lambda self: self.depthwise_conv)
    pointwise2: Any = property(lambda self: self.pointwise_conv2)

    def __init__(self, config: ConformerConfig) -> None:
        nn.Module.__init__(self)
        dim, kernel = config.dim, config.conv_kernel
        self.layer_norm = nn.LayerNorm(dim)
        self.pointwise_conv1 = Conv1d(dim, 2 * dim, 1, bias=False)
        self.depthwise_conv = Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim, bias=False)
        self.batch_norm = nn.BatchNorm1d(dim)
        self.pointwise_conv2 = Conv1d(dim, dim, 1, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(batch, time, dim) to the same; the mask is (batch, time) bool."""
        return super().forward(hidden_states, attention_mask)


class RotaryPositions(Float32Buffers):
    """Cosine and sine of every position's angles."""

    inv_freq: Tensor

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.register_buffer("inv_freq", inverse_frequencies(config))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(batch, time, dim) to (2, time, 1, 1, dim / heads), in its type."""
        return torch.stack(rotation_of(hidden_states, self.inv_freq))[:, :, None]


class UnusedPositions(nn.Module):
    """Weights of a convolution that the checkpoints have, and that nothing is computed with."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Module()
        shapes = {
            "bias": (dim,),
            "weight_g": (1, 1, POSITION_KERNEL),
            "weight_v": (dim, -(-dim // POSITION_GROUPS), POSITION_KERNEL),
        }
        for name, shape in shapes.items():
            self.conv.register_parameter(name, nn.Parameter(torch.ones(shape), requires_grad=False))
        self.register_load_state_dict_pre_hook(_old_spelling)  # type: ignore[no-untyped-call]


def _old_spelling(_: nn.Module, state: dict[str, Tensor], prefix: str, *__: Any) -> None:
    for name in [name for name in state if name.startswith(prefix)]:
        state[published.old_spelling(name)] = state.pop(name)
