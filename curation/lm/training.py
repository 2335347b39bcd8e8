"""Training of a language's perplexity model: SentencePiece unigram pieces, then an n-gram model of them (as CCNet's).

CCNet (arXiv 1911.00359) and SailCraft use 5-grams on 65,000 pieces from Wikipedia; with less than 1 GB of text 16,000 are
enough. The model is read by `curation.lm.perplexity`. Percentiles of held-out documents go with it, so that a cut can be "the
90th percentile of the seed corpus" instead of a number that holds for no other vocabulary.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

from cluster import kenlm
from curation.lm.kneser_ney import Grams, estimate, without_unknown
from curation.lm.perplexity import ABOUT, load, perplexity, piece_counts, read_arpa, save
from curation.lm.pieces import encode, normal_lines, pieces_of

PERCENTILES = (1, 5, 10, 25, 50, 75, 80, 90, 95, 99)
SENTENCEPIECE = "sentencepiece.model"
BINARY = "kenlm.binary"  # for other programs; written where KenLM is built
MAX_LINE_BYTES = 1 << 20
THREADS = 4  # of SentencePiece; sums depend on their number, so it is fixed


def train(
    texts: Iterable[str],
    folder: str,
    *,
    lang: str,
    vocab_size: int = 16_000,
    order: int = 5,
    estimator: str = "auto",
    heldout_share: float = 0.1,
    piece_bytes: int = 100_000_000,
) -> dict:
    """Train a model of the texts into the local `folder`; returns what `lm.json` says of it.

    `heldout_share` of the documents, chosen by a hash of their text, only measure. Pieces are learnt from at most
    `piece_bytes` of the others. `estimator`: `kenlm` runs lmplz (on disk, any size), `numpy` estimates the same model in
    memory, `auto` takes lmplz where it is built. Raises ValueError for fewer than 20 different documents, for an unknown
    estimator and when lmplz is asked for and not built.
    """
    if estimator not in ("auto", "kenlm", "numpy"):
        raise ValueError(f"there is no estimator {estimator!r}; take auto, kenlm or numpy")
    if estimator == "kenlm" and not kenlm.tool("lmplz"):
        raise ValueError(f"lmplz is not built; run {kenlm.SCRIPT}, or take --estimator numpy")
    if not 2 <= order <= 6:
        raise ValueError(f"order must be 2 to 6, not {order}")
    chosen = dict(sorted((_hash(text), text) for text in texts if text.strip()))
    if len(chosen) < 20:
        raise ValueError(
            f"{lang}: {len(chosen)} different documents are too few for a language model; 20 are the least"
        )
    n_heldout = max(1, round(heldout_share * len(chosen)))
    documents = pa.array(chosen.values(), pa.large_string())
    heldout, training = documents.slice(0, n_heldout), documents.slice(n_heldout)

    lines = normal_lines(training)
    model, vocabulary, scores = _learn_pieces(lines, vocab_size, piece_bytes)
    words, ends = without_unknown(*encode(training, pieces_of(vocabulary, scores)))
    by_kenlm = estimator == "kenlm" or (estimator == "auto" and kenlm.tool("lmplz") is not None)
    grams = _lmplz(words, ends, vocabulary, order, folder) if by_kenlm else estimate(words, ends, order)
    about = {
        "lang": lang,
        "vocabulary": len(vocabulary),
        "documents": len(training),
        "bytes": sum(len(line.encode()) + 1 for line in lines),
        "sentences": len(ends),
        "pieces": len(words),
        "estimator": "kenlm" if by_kenlm else "numpy",
    }
    save(folder, vocabulary, scores, grams, about)
    Path(folder, SENTENCEPIECE).write_bytes(model)
    return _measured(folder, heldout, about)


def _learn_pieces(lines: list[str], vocab_size: int, limit: int) -> tuple[bytes, list[str], list[float]]:
    import sentencepiece

    taken, size = [], 0
    for line in sorted(lines, key=_hash) if sum(map(len, lines)) * 4 > limit else lines:
        size += len(line.encode()) + 1
        if size > limit:
            break
        taken.append(line)
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(taken),
        model_writer=out,
        model_type="unigram",
        vocab_size=vocab_size,
        hard_vocab_limit=False,  # a small corpus gives fewer
        character_coverage=0.9999,
        normalization_rule_name="identity",  # the text is normalised already
        max_sentence_length=MAX_LINE_BYTES,
        shuffle_input_sentence=False,
        num_threads=THREADS,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
    ids = range(len(processor))
    return out.getvalue(), [processor.id_to_piece(i) for i in ids], [processor.get_score(i) for i in ids]


def _lmplz(words: np.ndarray, ends: np.ndarray, vocabulary: list[str], order: int, folder: str) -> list[Grams]:
    lmplz = kenlm.tool("lmplz")
    assert lmplz is not None, "`train` looked for it"
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        corpus, arpa = os.path.join(scratch, "corpus.txt"), os.path.join(scratch, "model.arpa")
        with open(corpus, "w", encoding="utf-8") as file:
            start = 0
            for end in ends.tolist():
                file.write(" ".join(map(vocabulary.__getitem__, words[start:end].tolist())) + "\n")
                start = end
        fallback = ["--discount_fallback", "0.5", "1", "1.5"]
        _run([lmplz, "-o", str(order), "--text", corpus, "--arpa", arpa, "-T", scratch, *fallback])
        if binary := kenlm.tool("build_binary"):
            _run([binary, "trie", arpa, os.path.join(folder, BINARY)])
        return read_arpa(arpa, vocabulary)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{os.path.basename(command[0])} failed: {done.stderr.strip()[-500:]}")


def _measured(folder: str, heldout: pa.Array, about: dict) -> dict:
    """`about` with what the held-out documents say, as it is in `lm.json` from now on."""
    model = load(folder)
    values, counts = perplexity(heldout, model), piece_counts(heldout, model)
    values, counts = values[counts > 0], counts[counts > 0]
    percentiles = np.percentile(values, PERCENTILES) if len(values) else np.full(len(PERCENTILES), np.nan)
    corpus = float(10 ** (np.log10(values) @ counts / counts.sum())) if len(values) else None
    path = Path(folder, ABOUT)
    about = json.loads(path.read_text(encoding="utf-8"))
    about["heldout"] = {
        "documents": len(values),
        "pieces": int(counts.sum()),
        "perplexity": corpus and round(corpus, 2),
        "percentiles": {str(p): round(float(v), 2) for p, v in zip(PERCENTILES, percentiles, strict=True)},
    }
    path.write_text(json.dumps(about, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return about


def _hash(text: str) -> str:
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "replace"))
