"""Train a language identifier from labelled documents: logistic regression over character n-grams, log odds of words.

    P(c | text) = softmax(z_c),  z = (sum of w over the text's n-grams + WORD_SHARE * sum of v over its words) / sqrt(n)

n: the number of n-grams. w: multinomial logistic regression, fitted by AdaGrad (Duchi et al. 2011) on segments of 20 to 600
characters, as many for each language, those of a language drawn from its sources by the square root of their sizes, with
the written and transplanted texts of `curation.lid.synthesis`. v: log of the share of the segments of c that have the word,
less its mean over the classes: a rare word is known at first sight, where a gradient has hardly moved. One
core, fixed order: equal documents give an equal model.

How good it is on sources that it has not seen is measured by training twice more, each time on half of the sources of every
language (of the documents, where there is one source), and predicting the other half. The temperature of the probabilities
is fitted on those predictions (Guo et al. 2017), so that they are not over-confident on text from elsewhere.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass

import numba
import numpy as np
import pyarrow as pa
import xxhash

from curation.lid import synthesis
from curation.lid.model import OTHER, LanguageModel, features_and_sums, unknown_letters
from curation.lid.ngrams import FOLD, SKIPPED, claim, text_ngrams, text_words
from curation.lid.report import expected_calibration_error, scores_by_length
from curation.text.units import decode, text_buffers

SHORTEST, LONGEST = 20, 600  # characters of a segment
LEAST_CHANGED = 0.05  # share of words that a rewriting must change
LEAST_TEXT = 2_000  # characters of a language below which it cannot be told apart
RATE = 0.1
EPOCHS = 3
DECAY = 1e-4
MISLABELLED = 0.02
UNKNOWN_QUANTILE, UNKNOWN_MARGIN = 0.005, 0.02
LEAST_KNOWN = (0.5, 0.95)
WORD_BITS, FULL = 17, 0.7  # of the table of words: 4 MB for 16 labels; the share of its rows that words have
WORD_SHARE = 5.0  # weight of a word's log odds beside the weights of n-grams
UNSEEN_SEGMENTS = 0.1  # in how many segments a word stands that stands in none
LIST_SEGMENTS = 8  # as many as a list of words counts for
ALPHABET_RATE = 1e-6  # a letter seen more seldom than this among a language's letters is not one of its letters

Document = tuple[str, str, str]
"""(language, source, text)"""
Segment = tuple[str, str]
"""(language or `OTHER`, text)"""


@dataclass(frozen=True)
class Training:
    """bits: of the feature hashes (rows of the weights). segments: of each language. neighbour_segments: of each language
    without documents, made of its words alone, and as many again of texts with its words where it is near to one."""

    bits: int = 18
    segments: int = 2000
    neighbour_segments: int = 50
    seed: int = 0


def train(
    documents: Sequence[Document],
    languages: Iterable[str] = (),
    config: Training = Training(),
    say: Callable[[str], None] = lambda line: None,
) -> tuple[LanguageModel, dict]:
    """The model and its report. languages: labels to tell apart (default: all that have enough text); the
    other documents are of `OTHER`.

    Raises ValueError when fewer than two languages have enough text, or a language asked for has none.
    """
    documents = [document for document in documents if document[2].strip()]
    sizes: Counter[str] = Counter()
    for lang, _, text in documents:
        sizes[lang] += len(text)
    wanted = sorted(set(languages) or {lang for lang in sizes if lang != OTHER})
    if thin := [lang for lang in wanted if sizes[lang] < LEAST_TEXT]:
        if languages:
            raise ValueError(f"too little text (less than {LEAST_TEXT:,} characters) to learn {', '.join(thin)}")
        say(f"too little text to learn {', '.join(thin)}: examples of `{OTHER}`")
        wanted = [lang for lang in wanted if lang not in thin]
    if not 2 <= len(wanted) <= 63:
        raise ValueError(f"{len(wanted)} languages: two to 63 can be told apart")
    documents = [(lang if lang in wanted else OTHER, source, text) for lang, source, text in documents]
    labels = (*wanted, OTHER)
    folds = _folds(documents)
    heldout = []
    for side in (0, 1):
        say(f"training on half of the sources, {side + 1} of 2")
        kept = [document for document, fold in zip(documents, folds, strict=True) if fold != side]
        unseen = [document for document, fold in zip(documents, folds, strict=True) if fold == side]
        missing = set(labels) - {document[0] for document in kept} - {OTHER}
        if missing:  # one document: nothing of it can be held out
            kept += [document for document in unseen if document[0] in missing]
            unseen = [document for document in unseen if document[0] not in missing]
        half = _fit(kept, labels, sizes.keys(), config)
        heldout.append(_predict_sources(half, unseen, config))
    truth, z, features, lengths, known = (np.concatenate(column) for column in zip(*heldout, strict=True))
    say("training on all sources")
    model = _fit(documents, labels, sizes.keys(), config)
    model.temperature = fit_temperature(z, features, truth)
    for number in range(len(wanted)):
        if (truth == number).any():
            least = np.quantile(known[truth == number], UNKNOWN_QUANTILE) - UNKNOWN_MARGIN
            model.least_known[number] = np.clip(least, *LEAST_KNOWN)
    probabilities = model.calibrated(z, features)
    report = {
        "documents": dict(sorted(Counter(document[0] for document in documents).items())),
        "sources": {lang: sorted({d[1] for d in documents if d[0] == lang}) for lang in labels},
        "temperature": [round(value, 4) for value in model.temperature],
        "unseen_sources": {
            **scores_by_length(truth, probabilities.argmax(axis=1), lengths, labels),
            "calibration_error": expected_calibration_error(probabilities, truth),
        },
    }
    return model, report


def _folds(documents: Sequence[Document]) -> list[int]:
    """0 or 1 for each document: the sources of a language in turn by size, the documents by hash where there is one."""
    sizes: dict[str, Counter] = defaultdict(Counter)
    for lang, source, text in documents:
        sizes[lang][source] += len(text)
    side = {}
    for lang, of_source in sizes.items():
        order = sorted(of_source, key=lambda name: (-of_source[name], name))
        side.update({(lang, source): i % 2 for i, source in enumerate(order)})
    return [
        side[lang, source] if len(sizes[lang]) > 1 else xxhash.xxh3_64_intdigest(text.encode()) % 2
        for lang, source, text in documents
    ]


def _fit(documents: Sequence[Document], labels: tuple[str, ...], present: Set[str], config: Training) -> LanguageModel:
    segments = make_segments(documents, labels, present, config)
    truth = np.array([labels.index(lang) for lang, _ in segments])
    texts = text_buffers(pa.array([text for _, text in segments], pa.large_string()))
    pointers, ids = text_ngrams(*texts, config.bits)
    counts = np.bincount(truth, minlength=len(labels))
    importance = (len(truth) / (np.count_nonzero(counts) * np.maximum(counts, 1)))[truth].astype(np.float32)
    weights = np.zeros((1 << config.bits, len(labels)), np.float32)
    _descend(pointers, ids, truth, importance, weights, EPOCHS, RATE, DECAY, config.seed)
    owners, words = log_odds(segments, labels)
    return LanguageModel.of_floats(labels, weights, owners, WORD_SHARE * words, alphabets(documents, labels))


def log_odds(segments: Sequence[Segment], labels: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(owners uint32 [2^WORD_BITS], v float32 [2^WORD_BITS, C]) of the most frequent words; 0 for the others.

    Lists of words that were written by hand count as `LIST_SEGMENTS` segments each.
    """
    lists = [(lang, text) for lang, text in synthesis.listed_words() if lang in labels] * LIST_SEGMENTS
    truth = np.array([labels.index(lang) for lang, _ in (*segments, *lists)])
    texts, hashes = text_words(*text_buffers(pa.array([text for _, text in (*segments, *lists)], pa.large_string())))
    found, numbers = np.unique(hashes, return_inverse=True)
    once = np.unique(numbers * len(truth) + texts)  # a word counts once in a segment
    numbers, texts = once // len(truth), once % len(truth)
    counts = np.bincount(numbers * len(labels) + truth[texts], minlength=len(found) * len(labels))
    counts = counts.reshape(len(found), len(labels))
    sizes = np.maximum(counts.sum(axis=0), 1)
    kept = np.argsort(-counts.sum(axis=1), kind="stable")[: int(FULL * (1 << WORD_BITS))]
    logs = np.log(counts[kept] * (sizes.mean() / sizes) + UNSEEN_SEGMENTS)
    owners, rows = claim(found[kept], WORD_BITS)
    table = np.zeros((len(owners), len(labels)), np.float32)
    table[rows] = logs - logs.mean(axis=1, keepdims=True)
    return owners, table


def make_segments(
    documents: Sequence[Document], labels: tuple[str, ...], present: Set[str], config: Training
) -> list[Segment]:
    """What the model is trained on, in the order of training. present: languages of the documents of `OTHER` too."""
    sources: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for lang, source, text in documents:
        sources[lang][source] += [line for line in text.split("\n") if line.strip()]
    cut = {lang: _cut(lang, sources[lang], config.segments, config.seed) for lang in labels if lang in sources}
    segments = [(lang, text) for lang in cut for text in cut[lang]]
    for (old, new), spelling in synthesis.spellings().items():
        if old not in cut or new not in cut:
            continue
        rng = random.Random(f"{config.seed}/{old}-{new}")
        for text in _cut(old, sources[old], 3 * config.segments, config.seed + 1):
            copy, changed = synthesis.rewrite(text, spelling, rng)
            if changed > LEAST_CHANGED:
                segments += [(new, copy), (old, text)]
    frequent = {}
    for lang, (words, near) in synthesis.neighbours().items():
        if lang not in labels and lang in present:
            continue
        label = lang if lang in labels else OTHER
        rng = random.Random(f"{config.seed}/{lang}")
        near = [one for one in near if one in cut and one != lang]
        segments += [(label, synthesis.bag(words, rng)) for _ in range(config.neighbour_segments)]
        for i in range(8 * config.neighbour_segments if near else 0):
            host = near[i % len(near)]
            if host not in frequent:
                frequent[host] = synthesis.frequent_words(sources[host])
            segments.append((label, synthesis.transplant(rng.choice(cut[host]), frequent[host], words, rng)))
    random.Random(config.seed).shuffle(segments)
    return segments


def _cut(lang: str, sources: dict[str, list[str]], wanted: int, seed: int) -> list[str]:
    """About `wanted` segments, of each source in proportion to the square root of its size, none read four times."""
    sizes = {source: sum(map(len, lines)) for source, lines in sources.items()}
    whole = sum(size**0.5 for size in sizes.values())
    result = []
    for source in sorted(sources):
        rng = random.Random(f"{seed}/{lang}/{source}")
        lines = list(sources[source])
        rng.shuffle(lines)
        share = round(wanted * sizes[source] ** 0.5 / whole)
        got: list[str] = []
        for _ in range(4):
            i = 0
            while i < len(lines) and len(got) < share:
                length = int(SHORTEST * (LONGEST / SHORTEST) ** rng.random())
                text = lines[i]
                i += 1
                while len(text) < length and i < len(lines):
                    text += "\n" + lines[i]
                    i += 1
                got.append(_window(text, length, rng))
        result += got
    return result


def _window(text: str, length: int, rng: random.Random) -> str:
    """About `length` characters from a random place, from a space to a space where one is within 30."""
    if len(text) <= length:
        return text
    start = rng.randrange(len(text) - length + 1)
    before = text.rfind(" ", max(0, start - 30), start)
    start = before + 1 if before >= 0 else start
    stop = text.find(" ", start + length, start + length + 30)
    return text[start : stop if stop >= 0 else start + length]


@numba.njit(cache=True)
def _descend(pointers, ids, truth, importance, weights, epochs, rate, decay, seed):  # noqa: PLR0917
    """AdaGrad on the log loss, one segment at a time, in a new random order each epoch. Changes `weights`."""
    np.random.seed(seed)
    order = np.arange(len(truth))
    width = weights.shape[1]
    squares = np.full(weights.shape, 1e-8, np.float32)
    z = np.empty(width, np.float32)
    for _ in range(epochs):
        np.random.shuffle(order)
        for d in order:
            start, end = pointers[d], pointers[d + 1]
            if start == end:
                continue
            x = np.float32(1 / np.sqrt(end - start))
            z[:] = 0
            for j in range(start, end):
                for c in range(width):
                    z[c] += weights[ids[j], c]
            for c in range(width):
                z[c] *= x
            top = z.max()
            total = np.float32(0)
            for c in range(width):
                z[c] = np.exp(z[c] - top)
                total += z[c]
            for c in range(width):
                z[c] = (z[c] / total - (c == truth[d])) * importance[d]
                z[c] *= x
            for j in range(start, end):
                row = ids[j]
                for c in range(width):
                    gradient = z[c] + np.float32(decay) * weights[row, c]
                    squares[row, c] += gradient * gradient
                    weights[row, c] -= np.float32(rate) * gradient / np.sqrt(squares[row, c])


def alphabets(documents: Sequence[Document], labels: tuple[str, ...]) -> np.ndarray:
    """uint64 `[0x40000]`: bit c of a letter says that documents of label c are written with it."""
    table = np.zeros(len(FOLD), np.uint64)
    for number, label in enumerate(labels[:-1]):
        texts = pa.array([text for lang, _, text in documents if lang == label], pa.large_string())
        counts = np.zeros(len(FOLD), np.int64)
        _count_letters(*text_buffers(texts), FOLD, counts)
        known = counts >= max(2, ALPHABET_RATE * counts.sum())
        table[known] |= np.uint64(1 << number)
    return table


@numba.njit(cache=True)
def _count_letters(data, offsets, fold, counts):
    for d in range(len(offsets) - 1):
        i, end = offsets[d], offsets[d + 1]
        while i < end:
            code, size = decode(data, i, end)
            i += size
            if fold[code] > SKIPPED:
                counts[fold[code]] += 1


def _predict_sources(model: LanguageModel, documents: Sequence[Document], config: Training) -> tuple[np.ndarray, ...]:
    """(label numbers, z [N, C], number of features, of characters, share of known letters) of segments of the documents."""
    sources: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for lang, source, text in documents:
        sources[lang][source] += [line for line in text.split("\n") if line.strip()]
    texts, truth = [], []
    for lang in model.labels:
        if lang in sources:
            cut = _cut(lang, sources[lang], config.segments // 3, config.seed + 2)
            texts += cut
            truth += [model.labels.index(lang)] * len(cut)
    array = pa.array(texts, pa.large_string())
    sums, features = features_and_sums(model, array)
    numbers = np.array(truth, np.int64)
    unknown, letters = unknown_letters(model, *text_buffers(array), np.uint64(1) << numbers.astype(np.uint64))
    known = 1 - unknown / np.maximum(letters, 1)
    return numbers, model.logits(sums, features), features, np.array([len(text) for text in texts]), known


def fit_temperature(z: np.ndarray, features: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """(a, b) for which softmax(a * features^b * z) has the least log loss, by a grid that is made finer three times.

    `MISLABELLED` of the texts count as labelled at random: English left in Khmer manuals would make all others unsure.
    """
    count = np.maximum(features, 1)[:, None].astype(np.float64)
    rows = np.arange(len(truth))

    def loss(a: float, b: float) -> float:
        scaled = np.exp(a) * count**b * z
        raised = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        right = raised[rows, truth] / raised.sum(axis=1)
        return float(-np.log((1 - MISLABELLED) * right + MISLABELLED / z.shape[1]).mean())

    best, step = (0.0, 0.0), (1.0, 0.2)
    for _ in range(4):
        grid = [(best[0] + i * step[0] / 2, best[1] + j * step[1] / 2) for i in range(-3, 4) for j in range(-3, 4)]
        best = min(grid, key=lambda point: (loss(*point), point))
        step = (step[0] / 3, step[1] / 3)
    return float(np.exp(best[0])), float(best[1])
