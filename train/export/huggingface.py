"""A trained model as the Hugging Face folder that others load: weights in the asked dtype, checked, and what rounding costs.

Training keeps fp32 weights. In "fp32" the folder has the same numbers; in "bf16" each is rounded to 8 bits of mantissa, as
released models are, so logits differ a little. That is measured on held-out text and said, not assumed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cluster import document_tokens, storage
from train import model
from train.batches.decoder import CausalLM, kv_heads
from train.export.convert import DTYPES
from train.scores import evaluate

FAMILIES = {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama"}
TOLERANCE = 1e-4  # of fp32 logits: our attention and that of transformers add up in another order


def export(
    source: str, folder: str, dtype: str = "bf16", texts: Sequence[tuple[str, str]] = ()
) -> dict[str, str | int | bool | float | dict]:
    """Write the model of the folder `source` to `folder` (URIs) with weights in `dtype`, and open it with plain transformers.

    `texts` are held-out (language, text). Returns what a card says: family, architecture, layers, width, heads, kv_heads,
    parameters, vocabulary, tied, context (the trained length, in tokens), dtype; and rounding: {language: change of its bits
    per byte}. Raises ValueError for another dtype, AssertionError when what was written is not the source's model.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}.")
    net = model.load(source).eval()
    tokenizer = AutoTokenizer.from_pretrained(storage.localize(source))
    config, context = net.config, net.config.max_position_embeddings

    def bits_per_byte() -> dict[str, float]:
        ids = (tokenizer.encode(text, add_special_tokens=False, verbose=False) for _, text in texts)
        documents = [(lang, tokens, len(text.encode())) for (lang, text), tokens in zip(texts, ids, strict=True)]
        begin, eod = document_tokens.begin(tokenizer), document_tokens.end(tokenizer)
        found = evaluate.bits_per_byte(net, documents, context=context, eod=eod, begin=begin)
        return {lang: entry["bits_per_byte"] for lang, entry in found.items()}

    rounded = DTYPES[dtype] != net.dtype
    before = bits_per_byte() if rounded else {}
    _cast(net, DTYPES[dtype])
    model.save(net, tokenizer, folder, context)
    _cast(net, torch.float32)
    _check(net, folder)
    after = bits_per_byte() if rounded else {}
    return {
        "family": FAMILIES.get(config.model_type, config.model_type),
        "architecture": type(net).__name__,
        "layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "heads": config.num_attention_heads,
        "kv_heads": kv_heads(config),
        "parameters": sum(p.numel() for p in net.parameters()),
        "vocabulary": config.vocab_size,
        "tied": config.tie_word_embeddings,
        "context": context,
        "dtype": dtype,
        "rounding": {lang: after[lang] - before[lang] for lang in before},
    }


def _cast(net: CausalLM, dtype: torch.dtype) -> None:
    """Of the weights alone: `net.to` would round the rotary frequencies too, which are not saved and must stay exact."""
    for parameter in net.parameters():
        parameter.data = parameter.data.to(dtype)


def _check(net: CausalLM, folder: str) -> None:
    """The folder opens with plain transformers, has the weights of `net`, and gives its logits."""
    plain = AutoModelForCausalLM.from_pretrained(storage.localize(folder), dtype=torch.float32).eval()
    wanted = net.state_dict()
    differ = [name for name, value in plain.state_dict().items() if not torch.equal(value, wanted[name])]
    assert not differ, f"{folder}: {differ[0]} is not as in the model that was exported"
    ids_BT = torch.arange(64).remainder(net.config.vocab_size).view(1, 64)
    with torch.no_grad():
        torch.testing.assert_close(plain(ids_BT).logits, net(ids_BT).logits, rtol=TOLERANCE, atol=TOLERANCE)
