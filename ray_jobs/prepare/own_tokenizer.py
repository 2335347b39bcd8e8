"""A tokenizer of one's own: how it is trained, and what it costs each language on parallel documents that it never saw."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from transformers import PreTrainedTokenizerFast

from curation.text.form import one_form
from mixture.tokenizer import cost
from mixture.tokenizer.parity import train_parity
from mixture.tokenizer.tokenizer import train_bpe
from ray_jobs.errors import UserError
from ray_jobs.run import files

FIELDS = ("key", "lang", "text")
FERTILITY = "fertility.json"  # beside tokenizer.json


def train(
    texts: Iterable[tuple[str, str]],
    folder: str,
    *,
    vocab_size: int,
    max_bytes: int = 1 << 30,
    parity: bool,
    pieces: str,
    parallel: cost.Parallel,
) -> tuple[PreTrainedTokenizerFast, cost.Parallel]:
    """Train on pairs of language and text, save in `folder`; with the half of the parallel documents that it did not see, none
    where there are none. A training text that is one of them is left out. Raises ValueError as `train_bpe` and `cost.halves`."""
    chosen: cost.Parallel = {}
    judged: cost.Parallel = {}
    if parallel:
        chosen, judged = cost.halves(parallel)
    apart = {text for of_lang in parallel.values() for text in of_lang.values()}
    texts = ((lang, text) for lang, text in texts if text not in apart)
    if parity:
        return train_parity(texts, vocab_size, folder, max_bytes, parallel=chosen, pieces=pieces), judged
    return train_bpe((text for _, text in texts), vocab_size, folder, max_bytes, pieces), judged


def costs(tokenizers: Mapping[str, PreTrainedTokenizerFast], judged: cost.Parallel) -> dict:
    """What goes into fertility.json: `cost`, rows of `cost.token_costs`, and `parity`, one for each tokenizer."""
    rows = cost.token_costs(tokenizers, judged) if judged else []
    return {"cost": rows, "parity": cost.parity(rows)} if rows else {}


def parallel_documents(pattern: str | None, named: str) -> cost.Parallel:
    """Language -> `key` -> `text` of the rows of a glob, in the form that documents of a run have; none without a glob. `named`:
    the recipe key or the flag that gave it. Raises UserError for a row without one of the three fields; of two with one key and
    language the last counts."""
    parallel: dict[str, dict[str, str]] = defaultdict(dict)
    for part in files.named([pattern], named) if pattern else ():
        for number, row in enumerate(files.rows(part)):
            if lacking := [name for name in FIELDS if not isinstance(row.get(name), str) or not row[name]]:
                raise UserError(
                    f"{named}: row {number + 1} of {part} has no text in `{lacking[0]}`; rows have `key` (the same in all "
                    "translations of a document), `lang` and `text`"
                )
            parallel[row["lang"]][row["key"]] = one_form(row["text"])
    return dict(parallel)
