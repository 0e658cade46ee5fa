"""The Conformer, with the names that it has in MusicFM's published code.

Those are of ``transformers``' wav2vec 2.0-Conformer, which is not needed here.
"""

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from musicfm.model import encoder, published
from musicfm.model.config import ConformerConfig
from musicfm.model.encoder import inverse_frequencies, rotate, rotation_of, run_block
from musicfm.model.mel import Float32Buffers
from musicfm.model.published import POSITION_GROUPS, POSITION_KERNEL
from musicfm.modules.hooks import is_hooked, run_convolution


class Settings(SimpleNamespace):
    """What a :class:`Conformer` is built from, by the names of ``transformers``."""

    @classmethod
    def of(cls, config: ConformerConfig) -> "Settings":
        """Those of one of our configurations."""
        return cls(
            hidden_size=config.dim,
            num_hidden_layers=config.depth,
            num_attention_heads=config.num_heads,
            intermediate_size=config.ffn_dim,
            hidden_act="swish",
            hidden_dropout=config.dropout,
            attention_dropout=config.dropout,
            activation_dropout=config.dropout,
            conformer_conv_dropout=config.dropout,
            layerdrop=0.0,
            layer_norm_eps=1e-5,
            conv_depthwise_kernel_size=config.conv_kernel,
            position_embeddings_type="rotary",
            rotary_embedding_base=encoder.ROTARY_BASE,
            max_source_positions=5_000,
            feat_extract_activation="gelu",
            num_conv_pos_embeddings=POSITION_KERNEL,
            num_conv_pos_embedding_groups=POSITION_GROUPS,
        )

    def to_dict(self) -> dict[str, Any]:
        """The attributes by name."""
        return dict(vars(self))


class ConformerOutput(dict[str, Any]):
    """What :class:`Conformer` returns, of which only what was asked for is there.

    ``output.hidden_states``, ``output["hidden_states"]`` and ``output[1]`` are the same.
    """

    @property
    def last_hidden_state(self) -> Tensor:
        """(batch, time, dim), after the final LayerNorm."""
        return self["last_hidden_state"]

    @property
    def hidden_states(self) -> tuple[Tensor, ...] | None:
        """(batch, time, dim) each: the input, and what every layer gives; the last is normed."""
        return self.get("hidden_states")

    @property
    def attentions(self) -> tuple[Tensor, ...] | None:
        """(batch, heads, time, time) of each layer."""
        return self.get("attentions")

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def to_tuple(self) -> tuple[Any, ...]:
        """What was asked for."""
        return tuple(self.values())


_pytree.register_pytree_node(  # what is in it is moved, exported and gathered
    ConformerOutput,
    lambda output: (list(output.values()), list(output)),
    lambda values, names: ConformerOutput(zip(names, values, strict=True)),
    serialized_type_name="musicfm.modules.conformer.ConformerOutput",
)


class Conformer(nn.Module):
    """Layers, and a final LayerNorm: see :class:`musicfm.model.encoder.Encoder`.

    Args:
        config: :class:`Settings`, or what has such attributes.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        dim = config.hidden_size
        self.embed_positions = RotaryPositions(config)
        self.pos_conv_embed = UnusedPositions(dim)
        self.layer_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(ConformerLayer(config) for _ in range(config.num_hidden_layers))
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
                attention_mask=mask,
                relative_position_embeddings=positions,
                output_attentions=output_attentions,
                recompute=self.gradient_checkpointing and self.training,
            )
            attentions.append(weights)
            states = [*states, x] if output_hidden_states else [x]
        if num_layers is None:
            states[-1] = self.layer_norm(x)
        output = ConformerOutput(last_hidden_state=states[-1])
        if output_hidden_states:
            output["hidden_states"] = tuple(states)
        if output_attentions:
            output["attentions"] = tuple(attentions)
        return output if return_dict else output.to_tuple()


class ConformerLayer(nn.Module):
    """See :class:`musicfm.model.encoder.ConformerBlock`."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        dim = config.hidden_size
        self.ffn1_layer_norm = nn.LayerNorm(dim)
        self.ffn1 = FeedForward(config)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.self_attn_dropout = nn.Dropout(config.attention_dropout)
        self.self_attn = SelfAttention(config)
        self.conv_module = ConvolutionModule(config)
        self.ffn2_layer_norm = nn.LayerNorm(dim)
        self.ffn2 = FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(dim)

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
            hidden_states=self.self_attn_layer_norm(x),
            attention_mask=attention_mask,
            relative_position_embeddings=relative_position_embeddings,
            output_attentions=output_attentions,
        )
        x = x + self.self_attn_dropout(attended)
        x = x + (self.conv_module(x) if mask is None else self.conv_module(x, mask.bool()))
        x = x + 0.5 * self.ffn2(self.ffn2_layer_norm(x))
        return self.final_layer_norm(x), weights


class FeedForward(nn.Module):
    """See :class:`musicfm.model.encoder.FeedForward`, whose LayerNorm is the layer's here."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.intermediate_dropout = nn.Dropout(config.activation_dropout)
        self.intermediate_dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.intermediate_act_fn = nn.SiLU()
        self.output_dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.output_dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden_states: Tensor) -> Tensor:
        x = self.intermediate_act_fn(self.intermediate_dense(hidden_states))
        return self.output_dropout(self.output_dense(self.intermediate_dropout(x)))


class SelfAttention(encoder.SelfAttention):
    """See :class:`musicfm.model.encoder.SelfAttention`, whose LayerNorm is the layer's here."""

    query: Any = property(lambda self: self.linear_q)
    key: Any = property(lambda self: self.linear_k)
    value: Any = property(lambda self: self.linear_v)
    out: Any = property(lambda self: self.linear_out)

    def __init__(self, config: Any) -> None:
        nn.Module.__init__(self)
        dim = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.head_size = dim // self.num_heads
        self.position_embeddings_type = "rotary"
        self.linear_q = nn.Linear(dim, dim)
        self.linear_k = nn.Linear(dim, dim)
        self.linear_v = nn.Linear(dim, dim)
        self.linear_out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(config.attention_dropout)

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
            frequencies = inverse_frequencies(self.num_heads * self.head_size, self.num_heads)
            rotation = rotation_of(x, frequencies.to(x.device))
        else:
            cos, sin = relative_position_embeddings[:, : x.shape[1], 0]
            rotation = cos, sin
        seen = type(self.dropout) is not nn.Dropout or (
            not torch.compiler.is_compiling() and is_hooked(self.dropout)
        )
        if not output_attentions and not seen:
            return self.attend(x, rotation, mask), None
        weights = self.dropout(self._weights(x, rotation, mask))
        attended = weights @ self._heads(self.linear_v(x))
        x = self.linear_out(attended.transpose(1, 2).flatten(2))
        return x, weights if output_attentions else None

    def _weights(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        rotated = rotate(x, rotation, self.num_heads)
        query, key = self._heads(self.linear_q(rotated)), self._heads(self.linear_k(rotated))
        scores = query @ key.mT / math.sqrt(self.head_size)
        if mask is not None and mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, -torch.inf)
        elif mask is not None:
            scores = scores + mask
        return scores.softmax(dim=-1)


class ConvolutionModule(nn.Module):
    """See :class:`musicfm.model.encoder.ConvolutionModule`."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        dim, kernel = config.hidden_size, config.conv_depthwise_kernel_size
        self.layer_norm = nn.LayerNorm(dim)
        self.pointwise_conv1 = nn.Conv1d(dim, 2 * dim, 1, bias=False)
        self.glu = nn.GLU(dim=1)
        self.depthwise_conv = nn.Conv1d(
            dim, dim, kernel, padding=kernel // 2, groups=dim, bias=False
        )
        self.batch_norm = nn.BatchNorm1d(dim)
        self.activation = nn.SiLU()
        self.pointwise_conv2 = nn.Conv1d(dim, dim, 1, bias=False)
        self.dropout = nn.Dropout(config.conformer_conv_dropout)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(batch, time, dim) to the same; the mask is (batch, time) bool."""
        x = self.layer_norm(hidden_states).transpose(1, 2)
        x = self.glu(run_convolution(self.pointwise_conv1, x))
        if attention_mask is not None:  # a clip ends in zeros, as the convolution's own padding
            x = x.masked_fill(~attention_mask[:, None], 0.0)
        x = self.activation(self.batch_norm(run_convolution(self.depthwise_conv, x)))
        return self.dropout(run_convolution(self.pointwise_conv2, x).transpose(1, 2))


class RotaryPositions(Float32Buffers):
    """Cosine and sine of every position's angles."""

    inv_freq: Tensor

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.register_buffer(
            "inv_freq", inverse_frequencies(config.hidden_size, config.num_attention_heads)
        )

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
            self.conv.register_parameter(name, nn.Parameter(torch.ones(shape)))
        self.register_load_state_dict_pre_hook(_old_spelling)  # type: ignore[no-untyped-call]


def _old_spelling(_: nn.Module, state: dict[str, Tensor], prefix: str, *__: Any) -> None:
    for name in [name for name in state if name.startswith(prefix)]:
        state[published.old_spelling(name)] = state.pop(name)
