"""Attention that stays inside documents, one definition for every backend.

A packed row holds several documents; a token attends to the tokens before it in its own document only (Sailor2 §4.3). The
mask is a predicate `mask(b, h, q, k)`. Three backends compute it:

    sdpa      exact; the mask is a bool tensor of T x T. What a CPU takes
    flex      flex_attention compiled, which skips the blocks that the mask empties. What a GPU takes
    varlen    FlashAttention over the documents (train/kernels/varlen.py): GPU, 16 bits, whole rows, no soft cap, the masks
              `intra_document` and `anchor` only (pairs that share a prompt take sdpa)

The attention function is registered in `transformers` under the name "pinisi":
a model given `doc_ids` [B, T] packs documents, without them it is a plain causal model that generates with a KV cache.
What differs between families is an argument of theirs: `scaling`, `softcap` (Gemma 2: scores are c tanh(s / c)) and
`sliding_window` (a position sees the last w of its document), which a layer says of itself. So masks are made once for each
window that the config knows, and handed to all layers.

Axes: B batch, T position, H query heads, K key/value heads, N head width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from train.batches.decoder import Decoder
from train.kernels import layers, precision, varlen
from train.kernels.context_parallel import Part, of_body

log = logging.getLogger(__name__)

BACKENDS = ("auto", "sdpa", "flex", "varlen")

NAME = "pinisi"

_BACKEND = "attention_backend"  # attribute of a model's body

LONG = 1 << 26
"""Pairs of positions from which a block mask is made by a compiled function: eagerly each takes 9.5 bytes meanwhile."""

Mask = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""`mask(b, h, q, k)` is true where query position q of row b may see key position k."""


def intra_document(doc_ids_BT: Tensor) -> Mask:
    """Causal within a document: positions of a row with equal `doc_ids` form a document."""

    def mask(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (q >= k) & (doc_ids_BT[b, q] == doc_ids_BT[b, k])

    return mask


def anchor(doc_ids_BT: Tensor) -> Mask:
    """As `intra_document`, and every position also sees those before it in document 0, the anchor that begins a row.

    AnchorAttention (arXiv 2411.13476, the definition of its flex engine): a row is one anchor token, then documents 1, 2, ….
    """

    def mask(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (q >= k) & ((doc_ids_BT[b, q] == doc_ids_BT[b, k]) | (doc_ids_BT[b, k] == 0))

    return mask


def shared_prompt(doc_ids_BT: Tensor) -> Mask:
    """As `intra_document`, and documents 3 i + 1 and 3 i + 2 also see document 3 i before them: two answers and their prompt
    (train/methods/shared_prompts.py)."""

    def mask(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        of_q, of_k = doc_ids_BT[b, q], doc_ids_BT[b, k]
        return (q >= k) & ((of_q == of_k) | (of_k == of_q - of_q % 3))

    return mask


BRANCHES = 64
"""Of the mask `tree`: document 64 i is the trunk of its branches 64 i + 1, 64 i + 2, …; document 0 that of all."""


def tree(doc_ids_BT: Tensor) -> Mask:
    """As `intra_document`, and a branch also sees its trunk, and everything document 0 of its row: many questions behind the
    same examples, each with its options (train/tasks/options.py)."""

    def mask(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        of_q, of_k = doc_ids_BT[b, q], doc_ids_BT[b, k]
        return (q >= k) & ((of_q == of_k) | (of_k == of_q - of_q % BRANCHES) | (of_k == 0))

    return mask


MASKS = {"intra_document": intra_document, "anchor": anchor, "shared_prompt": shared_prompt, "tree": tree}
TREES = ("shared_prompt", "tree")  # positions of one text are not neighbours in the row


def windowed(mask: Mask, window: int, position_ids_BT: Tensor | None = None) -> Mask:
    """`mask` to the last `window` positions: as many of the row, or, where the positions of a text are not neighbours in it,
    by `position_ids_BT`."""

    def within(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        distance = q - k if position_ids_BT is None else position_ids_BT[b, q] - position_ids_BT[b, k]
        return mask(b, h, q, k) & (distance < window)

    return within


def windows(config) -> set[int | None]:
    """The windows in which layers of a model attend; None is all that came before."""
    types, window = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    if not types:  # all layers alike, of some kinds (Llama) without the window that stands in their config
        return {window, None}
    return {window if kind == "sliding_attention" else None for kind in types}


def of_queries(mask: Mask, positions_S: Tensor) -> Mask:
    """`mask` for queries that are only some of a row: number q of them is at `positions_S[q]`; keys are the whole row."""

    def shifted(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return mask(b, h, positions_S[q], k)

    return shifted


def dense_mask(
    mask: Mask, batch: int, length: int, device: torch.device | str = "cpu", queries: int | None = None
) -> Tensor:
    """`mask` as a bool tensor [B, 1, T, T] (or [B, 1, queries, T]), query positions before key positions."""
    b = torch.arange(batch, device=device)[:, None, None, None]
    q = torch.arange(length if queries is None else queries, device=device)[None, None, :, None]
    k = torch.arange(length, device=device)[None, None, None, :]
    return mask(b, torch.zeros_like(b), q, k)


def attach(model: Decoder) -> None:
    """Let `model.model(..., doc_ids=[B, T])` attend within documents; `mask="anchor"` takes another of `MASKS`.

    The mask is built once per forward pass. `model` is a causal LM of `transformers` with `attn_implementation="pinisi"`.
    Under autocast it computes by the policy of train/kernels/precision.py.
    """
    precision.attach(model)
    model.model.register_forward_pre_hook(_mask_from_doc_ids, with_kwargs=True)


def choose(model: nn.Module, backend: str, device: torch.device, numbers: str, context_parallel: int = 1) -> None:
    """Set which of `BACKENDS` attends within documents; "auto" is sdpa on a CPU, and on a GPU flex, or, where torch.compile
    does not work there, varlen (bf16, whole rows) or sdpa. A model that was never given one takes flex or sdpa.

    Raises ValueError for a backend that cannot work on `device` with `numbers` "fp32" or "bf16".
    """
    if device.type != "cuda":
        if backend in {"flex", "varlen"}:
            raise ValueError(f"attention: {backend} needs a GPU; on a CPU leave it at auto, which is exact there.")
        return
    if backend == "varlen" and numbers != "bf16":
        raise ValueError("attention: varlen needs precision bf16, as its kernel takes 16-bit numbers only.")
    capped = getattr(getattr(model, "config", None), "attn_logit_softcapping", None)
    if backend == "varlen" and capped:
        raise ValueError("attention: varlen has no soft cap of scores, which this model has; leave it at auto.")
    if backend == "auto" and (reason := layers.why_not_compile(device)):
        backend = "varlen" if numbers == "bf16" and context_parallel == 1 and not capped else "sdpa"
        log.warning("flex_attention cannot be compiled here, so attention is %s: %s", backend, reason)
    if backend != "auto" and hasattr(model, "model"):  # a draft has no body, and makes its own masks
        setattr(model.get_submodule("model"), _BACKEND, backend)


def _mask_from_doc_ids(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    doc_ids_BT, name = kwargs.pop("doc_ids", None), kwargs.pop("mask", "intra_document")
    if name not in MASKS:
        raise ValueError(f"mask must be one of {', '.join(MASKS)}, not {name!r}.")
    if doc_ids_BT is None:
        if name != "intra_document":
            raise ValueError(f"The mask {name!r} needs doc_ids.")
        if of_body(module):
            raise ValueError("context_parallel needs doc_ids.")
        return args, kwargs
    if kwargs.get("past_key_values") is not None or kwargs.get("attention_mask") is not None:
        raise ValueError(
            "doc_ids cannot be combined with a KV cache or an attention_mask; leave doc_ids out to generate."
        )
    part, (batch, length) = of_body(module), doc_ids_BT.shape
    queries = length // part.n if part else length
    inputs = next((x for x in (*args, kwargs.get("input_ids"), kwargs.get("inputs_embeds")) if x is not None), None)
    if inputs is not None and inputs.shape[:2] != (batch, queries):
        raise ValueError(
            f"doc_ids have shape {tuple(doc_ids_BT.shape)}, but the tokens {tuple(inputs.shape[:2])}; give one for each token."
        )
    backend = getattr(module, _BACKEND, None) or backend_of(doc_ids_BT.device)
    if backend == "varlen" and name in TREES:
        backend = "sdpa"  # varlen knows documents only; rows of pairs are short enough for a mask
    if backend == "varlen":
        if part:
            raise ValueError("attention: varlen cannot share a row among ranks (context_parallel); leave it at auto.")
        found = varlen.documents(doc_ids_BT, anchor=name == "anchor")
        return args, kwargs | {"attention_mask": _ready(doc_ids_BT), "documents": found}
    shared = kwargs.get("position_ids") if name in TREES else None
    if part:
        kwargs["context_part"] = part
    made: dict[int | None, Tensor | BlockMask] = {}
    of_layers = {window: None if window is None or window >= length else window for window in windows(module.config)}
    for window in set(of_layers.values()):
        mask = MASKS[name](doc_ids_BT)
        if window is not None:
            if name == "anchor":
                raise ValueError("The mask 'anchor' needs full attention, but this model has sliding-window layers.")
            mask = windowed(mask, window, shared)
        if part:
            mask = of_queries(mask, part.positions(length, doc_ids_BT.device))
        made[window] = _built(mask, backend, batch, queries, length, doc_ids_BT.device)
    masks = {window: made[narrower] for window, narrower in of_layers.items()}
    given = next(iter(made.values())) if len(made) == 1 else _ready(doc_ids_BT)
    return args, kwargs | {"attention_mask": given, "document_masks": masks}


def _ready(doc_ids_BT: Tensor) -> Tensor:
    """What `transformers` takes for a mask that is there already, so that it builds none."""
    batch, length = doc_ids_BT.shape
    return doc_ids_BT.new_empty((batch, 1, length, 0), dtype=torch.bool)


def _built(mask: Mask, backend: str, batch: int, queries: int, length: int, device: torch.device) -> Tensor | BlockMask:  # noqa: PLR0917
    if backend == "flex":
        make = create_block_mask if batch * queries * length < LONG else _long_block_mask()
        return make(mask, batch, None, queries, length, device=device)
    return dense_mask(mask, batch, length, device, queries)


@cache
def backend_of(device: torch.device) -> str:
    """What attends within documents on `device` where nobody has chosen it."""
    return "flex" if device.type == "cuda" and not layers.why_not_compile(device) else "sdpa"


@cache
def _long_block_mask() -> Callable:
    return torch.compile(create_block_mask)


def _flex() -> Callable:
    if torch.compiler.is_compiling():
        return flex_attention  # in a compiled layer it is a part of the graph
    return _compiled_flex()


@cache
def _compiled_flex() -> Callable:
    return torch.compile(flex_attention)  # uncompiled, it materialises the full score matrix


def attention(  # noqa: PLR0917 (the convention of transformers)
    module: nn.Module | None,
    query_BHTN: Tensor,
    key_BKTN: Tensor,
    value_BKTN: Tensor,
    attention_mask: Tensor | BlockMask | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    context_part: Part | None = None,
    documents: varlen.Documents | None = None,
    document_masks: dict[int | None, Tensor | BlockMask] | None = None,
    s_aux: Tensor | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Softmax attention in the calling convention of `transformers`. Returns ([B, T, H, N], None).

    A `BlockMask` goes to flex_attention, a bool mask [B, 1, Tq, Tk] to SDPA, None is causal; `document_masks` are such masks
    by the window of a layer. With a `context_part` the queries are that part of a row, and keys and values of the other parts
    are fetched from their ranks. `documents` go to varlen and need no mask.
    """
    if s_aux is not None:
        raise ValueError("Attention with sinks (s_aux) is not supported.")
    if document_masks is not None:
        if sliding_window not in document_masks:
            raise ValueError(f"A layer attends within {sliding_window} positions, which its config does not say.")
        attention_mask = document_masks[sliding_window]
    if dropout and (documents is not None or isinstance(attention_mask, BlockMask)):
        raise ValueError(
            "flex and varlen attention have no dropout; set attention_dropout to 0 to train with doc_ids on a GPU."
        )
    if documents is not None:
        if softcap:
            raise ValueError("attention: varlen has no soft cap of scores, which this model has; leave it at auto.")
        return varlen.attention(query_BHTN, key_BKTN, value_BKTN, documents, scaling, sliding_window), None
    if context_part is not None:
        key_BKTN, value_BKTN = context_part.gather(key_BKTN, value_BKTN)
    if isinstance(attention_mask, BlockMask):
        grouped = query_BHTN.shape[1] != key_BKTN.shape[1]
        # under autocast queries and keys leave rotation in fp32, and unlike SDPA flex takes one dtype only
        query_BHTN, key_BKTN = query_BHTN.to(value_BKTN.dtype), key_BKTN.to(value_BKTN.dtype)
        more = {"score_mod": _capping(softcap)} if softcap else {}
        out = _flex()(
            query_BHTN, key_BKTN, value_BKTN, block_mask=attention_mask, scale=scaling, enable_gqa=grouped, **more
        )
        return out.transpose(1, 2).contiguous(), None
    groups, shape = query_BHTN.shape[1] // key_BKTN.shape[1], query_BHTN.shape
    # One query against a cache sees everything; only a whole row needs the triangle.
    causal = attention_mask is None and shape[2] > 1
    if (
        groups > 1 and shape[2] == 1
    ):  # decoding: heads that share a key are so many queries, and no key is copied for them
        query_BHTN = query_BHTN.reshape(shape[0], -1, groups, shape[3])
    elif groups > 1:
        key_BKTN = key_BKTN.repeat_interleave(groups, dim=1)
        value_BKTN = value_BKTN.repeat_interleave(groups, dim=1)
    if softcap:
        out = _capped(query_BHTN, key_BKTN, value_BKTN, attention_mask, causal, dropout, scaling, softcap)
    else:
        out = scaled_dot_product_attention(
            query_BHTN,
            key_BKTN,
            value_BKTN,
            attn_mask=attention_mask,
            dropout_p=dropout,
            scale=scaling,
            is_causal=causal,
        )
    return out.reshape(*shape[:3], -1).transpose(1, 2).contiguous(), None


def _capped(  # noqa: PLR0917
    query_BHTN: Tensor,
    key_BHTN: Tensor,
    value_BHTN: Tensor,
    mask: Tensor | None,
    causal: bool,
    dropout: float,
    scaling: float | None,
    softcap: float,
) -> Tensor:
    """SDPA with a soft cap of the scores, which are held whole."""
    scaling = query_BHTN.shape[-1] ** -0.5 if scaling is None else scaling
    scores_BHTT = softcap * (query_BHTN @ key_BHTN.transpose(2, 3) * (scaling / softcap)).tanh()
    if causal:
        mask = torch.ones(scores_BHTT.shape[-2:], dtype=torch.bool, device=scores_BHTT.device).tril()
    if mask is not None:
        scores_BHTT = scores_BHTT.masked_fill(~mask, torch.finfo(scores_BHTT.dtype).min)
    p_BHTT = torch.softmax(scores_BHTT, -1, dtype=torch.float32).to(value_BHTN.dtype)
    return torch.dropout(p_BHTT, dropout, dropout > 0) @ value_BHTN


@cache  # flex_attention compiles anew for another function
def _capping(softcap: float) -> Callable:
    def score(s: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return softcap * torch.tanh(s / softcap)

    return score


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
