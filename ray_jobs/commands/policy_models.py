"""`pinisi policy RUN --try FILE --train`: which of two policies keeps the better documents, by small models trained on each.

What both keep is read from stored signals, so neither policy is run through the whole chain. Equal texts count once; near
copies do not. Of each language that both keep enough of, some documents that both keep are held out. A tokenizer is made from
what both keep. What is compared, and why it may be believed: ray_jobs/experiment/ablate.py.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence

import xxhash
from rich.text import Text

from cluster import document_tokens, storage, terminal
from cluster.terminal import Column, numbers
from curation.policy import policy
from mixture.tokenizer import tokenizer as tokenizers
from ray_jobs.commands import policy_trial
from ray_jobs.errors import UserError
from ray_jobs.experiment import ablate
from ray_jobs.experiment.ablate import Document, Setting
from ray_jobs.experiment.statistics import LEVEL, Difference, difference
from ray_jobs.run.run import Run
from train.methods.proxy import ProxyConfig

SEEDS = (42, 43, 44, 45, 46)
SHAPE = {
    **{"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4},
    **{"intermediate_size": 128, "tie_word_embeddings": True, "max_position_embeddings": 128, "rope_theta": 1e4},
}
VOCABULARY, CONTEXT, ROWS = 1024, 128, 8
STEPS = 100  # at most; what is read more often than thrice teaches little
PASSES = 3
HELDOUT, HELDOUT_SHARE = 20, 0.2  # documents of a language, and the share of what both keep that they may take
LEAST = 10  # documents of a language that each policy must keep for each seed
HELDOUT_BYTES = 4000  # of one document: of a longer one its beginning is scored
BATCH_ROWS = 4096


def compare(run: Run, file: str, seeds: Sequence[int] = SEEDS, steps: int = STEPS) -> dict:
    """`languages` and `all`: the tried policy's bits per byte less the recipe's, with interval; below 0 the tried one is better.

    Raises UserError as `policy_trial.compare`, and where no language has documents enough.
    """
    kept = _kept(run, file)
    langs = _enough(kept, len(seeds))
    if not langs:
        raise UserError(
            f"{run.uri}: no language of which both policies keep {LEAST * len(seeds)} documents ({LEAST} for each of "
            f"{len(seeds)} seeds); give fewer --seeds, or a larger run"
        )
    left_out = sorted({lang for side in kept for lang, _ in side.values()} - set(langs))
    kept = tuple({key: row for key, row in side.items() if row[0] in langs} for side in kept)
    both = {key: row for key, row in kept[0].items() if key in kept[1]}
    held = {key: (lang, _beginning(text)) for key, (lang, text) in both.items() if key in _heldout(both, langs)}
    with tempfile.TemporaryDirectory() as folder:
        tokenizers.train_bpe((text for _, (_, text) in sorted(both.items())), VOCABULARY, folder)
        tokenizer = tokenizers.load(folder)
    every = kept[0] | kept[1]
    texts = {key: text for key, (_, text) in every.items()} | {f"{key}/held": text for key, (_, text) in held.items()}
    ids = dict(zip(texts, tokenizers.encode(tokenizer, list(texts.values())), strict=True))

    def corpus(rows: Mapping[str, tuple[str, str]], suffix: str = "") -> dict[str, Document]:
        return {key: Document(lang, ids[key + suffix], len(text.encode())) for key, (lang, text) in rows.items()}

    heldout = corpus(held, "/held")
    tokens = min(sum(len(ids[key]) + 1 for key in side) for side in kept) / len(seeds)
    steps = max(1, min(steps, int(PASSES * tokens / (ROWS * CONTEXT))))
    config = ProxyConfig(steps, ROWS, ROWS, lr=1e-2, warmup_steps=min(10, steps // 2))
    setting = Setting({**SHAPE, "vocab_size": len(tokenizer)}, CONTEXT, document_tokens.end(tokenizer), config)
    try:
        now, tried = ablate.scores(corpus(kept[0]), corpus(kept[1]), heldout, setting, seeds)
    except ValueError as error:
        raise UserError(f"{run.uri}: {error}") from None
    return {
        "run": run.uri,
        "policy": file,
        "seeds": list(seeds),
        "steps": steps,
        "documents": {"now": len(kept[0]), "tried": len(kept[1]), "both": len(both)},
        "left_out": left_out,
        "all": _as_json(difference(tried, now)),
        "languages": {lang: _as_json(_of_language(tried, now, heldout, lang, len(langs))) for lang in langs},
    }


def _kept(run: Run, file: str) -> tuple[dict[str, tuple[str, str]], dict[str, tuple[str, str]]]:
    """What the recipe's policy and that of `file` keep: doc_id -> (language, text)."""
    parts, sides, _ = policy_trial.sides(run, file)
    found: tuple[dict, dict] = {}, {}
    seen: set[int] = set()
    columns = ["doc_id", "url", "lang", "text", *policy_trial.measured(sides)]
    for part in parts:
        with storage.open_parquet(part) as parquet:
            for batch in parquet.iter_batches(BATCH_ROWS, columns=columns):
                kept = [policy.apply(batch, side)[0] for side in sides]
                rows = batch.select(["doc_id", "lang", "text"]).to_pylist()
                for row, *keeps in zip(rows, *(one.to_pylist() for one in kept), strict=True):
                    digest = xxhash.xxh3_64_intdigest((row["text"] or "").encode("utf-8", "replace"))
                    if row["lang"] in run.recipe.languages and row["text"] and any(keeps) and digest not in seen:
                        seen.add(digest)
                        for side, keep in zip(found, keeps, strict=True):
                            if keep:
                                side[row["doc_id"]] = row["lang"], row["text"]
    return found


def _enough(kept: Sequence[Mapping[str, tuple[str, str]]], seeds: int) -> list[str]:
    """The languages of which each side has `LEAST` documents for each seed."""
    counts = []
    for side in kept:
        count: dict[str, int] = {}
        for lang, _ in side.values():
            count[lang] = count.get(lang, 0) + 1
        counts.append(count)
    return sorted(lang for lang, n in counts[0].items() if min(n, counts[1].get(lang, 0)) >= LEAST * seeds)


def _heldout(both: Mapping[str, tuple[str, str]], langs: Sequence[str]) -> set[str]:
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


def _of_language(tried, now, heldout: Mapping[str, Document], lang: str, languages: int) -> Difference:
    """At a level at which of all languages together none is called different by chance."""
    sides = [
        {
            seed: {key: bits for key, bits in scores.items() if heldout[key].lang == lang}
            for seed, scores in side.items()
        }
        for side in (tried, now)
    ]
    return difference(*sides, level=1 - (1 - LEVEL) / languages)


def _as_json(found: Difference) -> dict:
    return found._asdict() | {"verdict": found.verdict}


def show(found: Mapping) -> None:
    """Bits per byte of the tried policy less the recipe's."""
    columns = [
        Column("language"),
        Column("tried less recipe", right=True),
        Column("interval", right=True),
        numbers("items"),
    ]
    rows = [
        (lang, f"{one['value']:+.3f}", f"{one['low']:+.3f} to {one['high']:+.3f}", one["items"], one["verdict"])
        for lang, one in [*found["languages"].items(), ("all", found["all"])]
    ]
    lines = [*terminal.table([*columns, Column("")], rows), Text()]
    better = "the tried policy" if found["all"]["value"] < 0 else "the recipe's policy"
    verdict = f"{better} keeps the better documents" if found["all"]["shown"] else found["all"]["verdict"]
    documents = found["documents"]
    text = f"Bits per byte, less is better: {verdict}. {len(found['seeds'])} pairs of small models of {found['steps']} steps"
    text += f"; {documents['now']:,} and {documents['tried']:,} documents, {documents['both']:,} of them in common."
    if found["left_out"]:
        text += f" Left out, as there are too few documents: {', '.join(found['left_out'])}."
    lines += terminal.paragraph(text)
    terminal.show(lines)
