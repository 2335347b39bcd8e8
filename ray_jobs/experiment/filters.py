"""The documents of two filters, as texts, made into what ray_jobs/experiment/ablate.py trains on.

Equal texts count once; near copies do not. Of each language that both keep enough of, some documents that both keep are held
out. A tokenizer is made from what both keep.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import xxhash

from cluster import document_tokens
from mixture.tokenizer import tokenizer as tokenizers
from ray_jobs.experiment import ablate
from ray_jobs.experiment.ablate import Document, Scores, Setting
from train.methods.proxy import ProxyConfig

Texts = Mapping[str, tuple[str, str]]
"""doc_id -> (language, text)."""

SHAPE = {
    **{"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4},
    **{"intermediate_size": 128, "tie_word_embeddings": True, "max_position_embeddings": 128, "rope_theta": 1e4},
}
VOCABULARY, CONTEXT, ROWS = 1024, 128, 8
STEPS = 100  # at most; what is read more often than thrice teaches little
PASSES = 3
HELDOUT, HELDOUT_SHARE = 20, 0.2  # documents of a language, and the share of what both keep that they may take
LEAST = 5  # documents of a language that each filter must keep for each seed
HELDOUT_BYTES = 4000  # of one document: of a longer one its beginning is scored


class Compared(NamedTuple):
    """Bits per byte of held-out documents of the models of both filters; `lang` of each such document; `left_out`: languages
    with too few documents; `steps` of each model; `documents` of ours, of the other and of both, in the other languages."""

    ours: Scores
    other: Scores
    lang: dict[str, str]
    left_out: list[str]
    steps: int
    documents: tuple[int, int, int]


def compare(ours: Texts, other: Texts, seeds: Sequence[int], steps: int = STEPS) -> Compared:
    """Raises ValueError where no language has documents enough, or a model diverges."""
    other = _apart(ours, other)
    langs = _enough((ours, other), len(seeds))
    if not langs:
        raise ValueError(
            f"no language of which both filters keep {LEAST * len(seeds)} documents ({LEAST} for each of {len(seeds)} "
            "seeds); give fewer seeds, or a larger run"
        )
    left_out = sorted({lang for side in (ours, other) for lang, _ in side.values()} - set(langs))
    ours, other = ({key: row for key, row in side.items() if row[0] in langs} for side in (ours, other))
    both = {key: row for key, row in ours.items() if key in other}
    chosen = _heldout(both, langs)
    held = {key: (lang, _beginning(text)) for key, (lang, text) in both.items() if key in chosen}
    with tempfile.TemporaryDirectory() as folder:
        tokenizers.train_bpe((text for _, (_, text) in sorted(both.items())), VOCABULARY, folder)
        tokenizer = tokenizers.load(folder)
    mine, theirs, heldout = (_encoded(tokenizer, rows) for rows in (ours, other, held))
    tokens = min(sum(len(one.ids) + 1 for one in corpus.values()) for corpus in (mine, theirs)) / len(seeds)
    steps = max(1, min(steps, int(PASSES * tokens / (ROWS * CONTEXT))))
    config = ProxyConfig(steps, ROWS, ROWS, lr=1e-2, warmup_steps=min(10, steps // 2))
    setting = Setting({**SHAPE, "vocab_size": len(tokenizer)}, CONTEXT, document_tokens.end(tokenizer), config)
    found = ablate.scores(mine, theirs, heldout, setting, seeds)
    return Compared(
        *found, {key: lang for key, (lang, _) in held.items()}, left_out, steps, (len(ours), len(other), len(both))
    )


def _apart(ours: Texts, other: Texts) -> Texts:
    """`other`, where a document that has another text or language than ours is another document, whatever its id."""
    return {key if ours.get(key, row) == row else f"{key}\0{_hash(row[1])}": row for key, row in other.items()}


def _encoded(tokenizer, rows: Texts) -> dict[str, Document]:
    ids = tokenizers.encode(tokenizer, [text for _, text in rows.values()])
    return {
        key: Document(lang, one, len(text.encode())) for (key, (lang, text)), one in zip(rows.items(), ids, strict=True)
    }


def _enough(kept: Sequence[Texts], seeds: int) -> list[str]:
    """The languages of which each side has `LEAST` documents for each seed."""
    counts = []
    for side in kept:
        count: dict[str, int] = {}
        for lang, _ in side.values():
            count[lang] = count.get(lang, 0) + 1
        counts.append(count)
    return sorted(lang for lang, n in counts[0].items() if min(n, counts[1].get(lang, 0)) >= LEAST * seeds)


def _heldout(both: Texts, langs: Sequence[str]) -> set[str]:
    """Of each language those of the smallest hash."""
    found: set[str] = set()
    for lang in langs:
        keys = sorted((key for key, row in both.items() if row[0] == lang), key=_hash)
        found.update(keys[: min(HELDOUT, int(len(keys) * HELDOUT_SHARE))])
    return found


def _hash(key: str) -> int:
    return xxhash.xxh3_64_intdigest(f"held out {key}".encode("utf-8", "replace"))


def _beginning(text: str) -> str:
    return text.encode("utf-8", "replace")[:HELDOUT_BYTES].decode("utf-8", "ignore")
