"""The transient memory of a forward, reckoned from the sizes of a model.

Layers run one after the other, so the largest layer counts once. All numbers are upper estimates of
tensors that are in use together; `docs/memory.md` compares them with measurements.
"""

from dataclasses import dataclass
from typing import Any

from tokentape.generation.hf import accepts, compute_dtype, unwrapped
from tokentape.generation.hf.attention_kernel import attention_kernel
from tokentape.generation.hf.layer_cast import largest_cast_bytes

_FLOAT32 = 4
_SAMPLING_BYTES = 48
"""Bytes per entry of the vocabulary while a token is drawn and measured: probabilities, sorted
values and ids, cumulated sums, log-probabilities before and after the processors."""
_HIDDEN_COPIES = 3
"""Residual stream, normed input and output of a block."""
_SCAN_COPIES = 3
"""Float32 tensors of the scan of a recurrent layer, each as large as all its states."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardShape:
    """The sizes of a model that decide what a forward needs."""

    hidden: int
    mlp: int
    """Width of the MLP; of all experts that compute a token, in a mixture of experts."""
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    item_bytes: int
    """Bytes of a number in the dtype that is computed in."""
    eager: bool
    """Whether attention keeps a tensor of scores; fused kernels (SDPA) do not."""
    last_logits_only: bool
    """Whether a forward can compute the logits of its last token only."""
    windowed: bool
    """Whether a layer has a sliding window, which needs an attention mask in any prefill."""
    recurrent_states: int
    """Numbers in the recurrent state of one layer for one token; 0 without such layers."""
    cast_bytes: int = 0
    """The largest weight in the dtype that is computed in, if weights are cast as they are used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransientBytes:
    """What one forward needs in addition to weights and KV cache, in bytes."""

    mask: int
    """The attention mask: new tokens x all tokens, as booleans and once in the dtype."""
    attention: int
    """Queries, keys, values and output of a layer; keys and values repeated for heads that share
    them; scores, if the kernel keeps them."""
    mlp: int
    """Gate, input and output of the MLP, or of the experts of every token."""
    recurrent: int
    """The scan of a recurrent layer over the new tokens."""
    logits: int
    """Logits, and what sampling one token needs."""
    cast: int = 0
    """The largest weight in the dtype that is computed in, if weights are cast as they are used."""

    @property
    def total(self) -> int:
        """The sum of the pieces that are in use together."""
        layer = max(self.attention, self.mlp, self.recurrent)
        return self.mask + layer + self.logits + self.cast


def forward_shape(model: Any) -> ForwardShape:
    """Return the sizes of a model, whose tensors may be on torch's meta device."""
    config = model.config.get_text_config(decoder=True)
    hidden = _first(config, "hidden_size", "n_embd", "d_model") or 0
    heads = _first(config, "num_attention_heads", "n_head") or 1
    kv_heads = _first(config, "num_key_value_heads") or heads
    return ForwardShape(
        hidden=hidden,
        mlp=_mlp_width(config, hidden),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=_first(config, "head_dim") or hidden // heads,
        vocabulary=int(model.get_input_embeddings().num_embeddings),
        item_bytes=compute_dtype(model).itemsize,
        eager=attention_kernel(model) == "eager",
        last_logits_only=accepts(unwrapped(model).forward, "logits_to_keep"),
        windowed=_first(config, "sliding_window") is not None,
        recurrent_states=_recurrent_states(config, hidden),
        cast_bytes=largest_cast_bytes(model),
    )


def prefill_bytes(
    shape: ForwardShape,
    *,
    computed_tokens: int,
    total_tokens: int,
    forward_tokens: int,
    on_cuda: bool = False,
) -> TransientBytes:
    """Return what the largest forward of a prefill needs at most.

    It computes the last `computed_tokens` of `total_tokens`, in forwards of `forward_tokens`.
    """
    longest = min(forward_tokens, computed_tokens)
    ends = {total_tokens - computed_tokens + longest, total_tokens}
    forwards = (
        transient_bytes(shape, new_tokens=longest, total_tokens=end, on_cuda=on_cuda)
        for end in ends
    )
    return max(forwards, key=lambda each: each.total)


def transient_bytes(
    shape: ForwardShape, *, new_tokens: int, total_tokens: int, on_cuda: bool = False
) -> TransientBytes:
    """Return what a forward of `new_tokens`, the last of `total_tokens`, needs at most."""
    size, stream = shape.item_bytes, shape.hidden * new_tokens
    pairs = new_tokens * total_tokens
    masked = new_tokens > 1 and (total_tokens > new_tokens or shape.windowed or shape.eager)
    # As transformers makes a mask, and as attention converts it to the dtype of the queries.
    mask = pairs * (1 + size) if masked else 0
    attention = (
        size
        * new_tokens
        * (2 * (shape.heads + 2 * shape.kv_heads) * shape.head_dim + shape.heads * shape.head_dim)
    )
    if shape.heads != shape.kv_heads:
        attention += 2 * size * total_tokens * shape.heads * shape.head_dim
    # No fused kernel of CUDA computes float32 with heads that share keys, unless there is a mask.
    unfused = on_cuda and not masked and size == _FLOAT32 and shape.heads != shape.kv_heads
    if shape.eager:
        attention += pairs * shape.heads * _score_bytes(size)
    elif unfused:
        attention += pairs * shape.heads * 3 * _FLOAT32
    rows = 1 if shape.last_logits_only else new_tokens
    return TransientBytes(
        mask=mask,
        attention=attention + _HIDDEN_COPIES * stream * size,
        mlp=3 * shape.mlp * new_tokens * size + _HIDDEN_COPIES * stream * size,
        recurrent=_SCAN_COPIES * shape.recurrent_states * new_tokens * _FLOAT32,
        logits=shape.vocabulary * (rows * (size + _FLOAT32) + _SAMPLING_BYTES),
        cast=shape.cast_bytes,
    )


def _score_bytes(size: int) -> int:
    """Return the bytes of eager attention for each score.

    Scores and masked scores or weights; below float32, softmax has two copies in float32 as well.
    Measured on a CPU: 10.6 in bfloat16, 8 in float32.
    """
    return 2 * size if size >= _FLOAT32 else size + 2 * _FLOAT32


def _first(config: Any, *names: str) -> int | None:
    """Return the first of these fields that is a positive number; the first, if it is a list."""
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, list | tuple):
            value = max(value, default=None)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def _mlp_width(config: Any, hidden: int) -> int:
    dense = _first(config, "intermediate_size", "n_inner", "ffn_dim") or 4 * hidden
    experts = (_first(config, "num_experts_per_tok") or 0) * (
        _first(config, "moe_intermediate_size") or dense
    )
    return max(dense, experts + (_first(config, "shared_expert_intermediate_size") or 0))


def _recurrent_states(config: Any, hidden: int) -> int:
    """Return the numbers in one layer's recurrent state; see Mamba and gated delta networks."""
    if state := _first(config, "state_size", "ssm_state_size", "mamba_d_state"):
        expand = _first(config, "mamba_expand", "expand") or 2
        inner = None if hasattr(config, "mamba_expand") else _first(config, "intermediate_size")
        return state * (_first(config, "mamba_d_ssm") or inner or hidden * expand)
    heads = _first(config, "linear_num_value_heads") or 0
    return heads * sum(_first(config, f"linear_{kind}_head_dim") or 0 for kind in ("key", "value"))
