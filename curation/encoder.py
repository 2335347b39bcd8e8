"""An encoder as quality classifier: a text becomes a vector, and a line through these vectors says how good it is.

`train` takes any encoder that gives a vector a token (BERT, XLM-R, an embedding model) as it is, and learns only that line, by
logistic regression, so minutes on a CPU are enough (FineWeb-2-HQ, arXiv 2502.10361, does the like). One line for all languages
(pooled) or one for each. `open_model` also opens any Hugging Face sequence classifier, whose logits are the score.

A text is read in windows of `max_tokens` tokens, its first 20,000 characters at most. Of more than `windows` so many are read,
evenly spread, the first and the last among them. Its vector is the mean over all its tokens (or over the first token of each
window, where the model's own 1_Pooling says so) at length 1; its logits are the mean of its windows'. The model is read in fp32
on a CPU; scores are rounded to 5 decimals, so batches and threads do not show.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from curation import quality

if TYPE_CHECKING:
    import torch

ABOUT, HEADS, ENCODER = "quality.json", "heads.npy", "encoder"  # in the folder of a classifier of ours
POOLED = "*"  # the head of all languages
BATCH_TOKENS = {"cpu": 8192, "cuda": 65_536}  # padding included
DECIMALS = 5
RIDGE = 1.0  # of the squared weights, as scikit-learn's default; not tuned


@dataclass(frozen=True)
class Reading:
    """How a text is read: tokens of a window (those that the model adds included), and the most windows of a text."""

    max_tokens: int = 512
    windows: int = 4


class Encoder:
    """A model that gives vectors [N, width], or logits [N, labels], of texts. Raises ValueError for one that cannot be read."""

    def __init__(self, place: str, reading: Reading, device: torch.device, dtype: torch.dtype, *, labels: bool = False):
        from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        try:
            config = AutoConfig.from_pretrained(place)
            self.tokenizer = AutoTokenizer.from_pretrained(place)
            kind = AutoModelForSequenceClassification if labels else AutoModel
            self.model = kind.from_pretrained(place, dtype=dtype).to(device).eval()
        except (OSError, ValueError) as error:
            raise ValueError(f"{place}: cannot be read as an encoder: {str(error).strip().splitlines()[0]}") from None
        self.config, self.device, self.labels = config, device, labels
        self.reading = Reading(min(reading.max_tokens, room(config, reading.max_tokens)), reading.windows)
        self.first_token = _first_token(place)
        can_pad(self.tokenizer)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [N, width or labels]; zeros for a text without tokens."""
        import torch

        owners, windows = self._windows(texts)
        order = sorted(range(len(windows)), key=lambda i: (len(windows[i]), i))
        width = self.config.num_labels if self.labels else self.config.hidden_size
        sums, weights = np.zeros((len(texts), width)), np.zeros(len(texts))
        for batch in _batches(order, windows, BATCH_TOKENS["cpu" if self.device.type == "cpu" else "cuda"]):
            padded = self.tokenizer.pad({"input_ids": [windows[i] for i in batch]}, return_tensors="pt").to(self.device)
            with torch.inference_mode():
                found = self.model(input_ids=padded["input_ids"], attention_mask=padded["attention_mask"])
            mask = padded["attention_mask"].float()
            if self.labels:
                values = found.logits.float() * mask.sum(1, keepdim=True)
            elif self.first_token:
                values = found.last_hidden_state[:, 0].float() * mask.sum(1, keepdim=True)
            else:
                values = (found.last_hidden_state.float() * mask[..., None]).sum(1)
            own = np.array([owners[i] for i in batch])
            np.add.at(sums, own, values.cpu().double().numpy())
            np.add.at(weights, own, mask.sum(1).cpu().double().numpy())
        return (sums / np.maximum(weights, 1)[:, None]).astype(np.float32)

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """`__call__` at length 1."""
        found = self(texts)
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)

    def _windows(self, texts: Sequence[str]) -> tuple[list[int], list[list[int]]]:
        """(which text, its token ids) of each window that is read."""
        most = self.reading.windows
        owners: list[int] = []
        windows: list[list[int]] = []
        for number, text in enumerate(texts):
            text = text[: quality.MAX_CHARS].strip()
            if not text:
                continue
            found = self.tokenizer(
                text, truncation=True, max_length=self.reading.max_tokens, return_overflowing_tokens=True
            )["input_ids"]
            found = found if found and isinstance(found[0], list) else [found]
            if len(found) > most:
                found = [found[i] for i in np.linspace(0, len(found) - 1, most).round().astype(int).tolist()]
            windows += found
            owners += [number] * (len(windows) - len(owners))
        return owners, windows


def room(config: Any, most: int) -> int:
    """The tokens that a model has positions for; `most` where it does not say."""
    positions = getattr(config, "max_position_embeddings", None) or most
    if getattr(config, "model_type", "") in ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl"):
        return positions - 2  # theirs begin behind that of the padding
    return positions


def can_pad(tokenizer: Any) -> None:
    """Give a tokenizer without a token of padding another of its own for that; the attention mask hides it."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token


def config_of(place: str, key: str) -> Any:
    """The settings of the model at a folder or name. Raises ValueError, which names the recipe's `key`, where there is none."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(place)
    except (OSError, ValueError) as error:
        raise ValueError(f"{key}: {place} is no model: {str(error).strip().splitlines()[0]}") from None


@dataclass
class Classifier:
    """`score` of texts in a language; `heads` is language, or `POOLED`, -> weights and, last, the bias; none for one whose own
    logits are the score."""

    encoder: Encoder
    heads: Mapping[str, np.ndarray]
    label: int = 0

    def scores_languages(self, lang: str) -> bool:
        return not self.heads or POOLED in self.heads or lang in self.heads

    def score(self, texts: Sequence[str], lang: str) -> np.ndarray:
        """P(good), or the logit of a classifier with one label, float32 [N]."""
        if self.heads:
            return _probability(self.encoder.vectors(texts), self.heads[POOLED if POOLED in self.heads else lang])
        logits = self.encoder(texts).astype(np.float64)
        if logits.shape[1] == 1:
            return np.round(logits[:, 0], DECIMALS).astype(np.float32)
        exponents = np.exp(logits - logits.max(1, keepdims=True))
        return np.round((exponents / exponents.sum(1, keepdims=True))[:, self.label], DECIMALS).astype(np.float32)


def train(  # noqa: PLR0917
    examples: Mapping[str, tuple[list[str], list[str]]],
    place: str,
    out: str,
    reading: Reading,
    device: torch.device,
    dtype: torch.dtype,
    *,
    pooled: bool = True,
    per_side: int = 10_000,
    min_examples: int = 20,
    seed: int = 1,
) -> dict:
    """Learn the head or heads on the encoder at `place` and write all of it into the local folder `out`.

    `examples` are language -> (positives, negatives), split as `curation.quality.split` does. Returns `languages`: language ->
    how many there were, and the `auc` of held-out ones. A language with fewer than `min_examples` on a side has no head of its
    own; pooled it has a share in the one of all. Raises ValueError when nothing is left to learn from."""
    least = 2 if pooled else min_examples
    parts = {
        lang: found
        for lang, (positives, negatives) in sorted(examples.items())
        if (found := quality.split(positives, negatives, per_side=per_side, min_examples=least, seed=seed))
    }
    if not parts:
        raise ValueError(f"no language has {least} examples on both sides")
    encoder = Encoder(place, reading, device, dtype)
    vectors = {lang: [encoder.vectors(texts) for texts in (*one.train, *one.heldout)] for lang, one in parts.items()}
    groups = {POOLED: list(parts)} if pooled else {lang: [lang] for lang in parts}
    heads = {
        name: regression(
            np.concatenate([vectors[lang][0] for lang in langs]), np.concatenate([vectors[lang][1] for lang in langs])
        )
        for name, langs in groups.items()
    }
    languages = {
        lang: one.report(lang, [_probability(v, heads[POOLED if pooled else lang]) for v in vectors[lang][2:]])
        for lang, one in parts.items()
    }
    about = {"encoder": place, **asdict(encoder.reading), "heads": list(heads), "languages": languages}
    encoder.model.float().save_pretrained(os.path.join(out, ENCODER))
    encoder.tokenizer.save_pretrained(os.path.join(out, ENCODER))
    if encoder.first_token:
        os.makedirs(os.path.join(out, ENCODER, "1_Pooling"))
        with open(os.path.join(out, ENCODER, *_POOLING), "w", encoding="utf-8") as file:
            json.dump({"pooling_mode_cls_token": True}, file)
    np.save(os.path.join(out, HEADS), np.stack(list(heads.values())))
    with open(os.path.join(out, ABOUT), "w", encoding="utf-8") as file:
        json.dump(about, file, indent=1)
    return about


def open_model(
    place: str, label: str, device: torch.device, dtype: torch.dtype, reading: Reading | None = None
) -> Classifier:
    """The classifier in a folder of `train`, or a sequence classifier: a folder, or a name on the hub.

    `label` names the one of its labels that is good, where it has several; none: the second of two. Raises ValueError."""
    about = os.path.join(place, ABOUT)
    if os.path.exists(about):
        check(place, label)
        with open(about, encoding="utf-8") as file:
            said = json.load(file)
        own = Reading(said["max_tokens"], said["windows"])
        encoder = Encoder(os.path.join(place, ENCODER), own, device, dtype)
        heads = np.load(os.path.join(place, HEADS))
        return Classifier(encoder, dict(zip(said["heads"], heads, strict=True)))
    encoder = Encoder(place, reading or Reading(), device, dtype, labels=True)
    return Classifier(encoder, {}, label_of(encoder.config, place, label))


def check(place: str, label: str) -> None:
    """Raises ValueError for a folder that `open_model` cannot use; the weights are not read."""
    if os.path.exists(os.path.join(place, ABOUT)):
        if label:
            raise ValueError(f"quality.label: {place} is a classifier of ours, which has none; leave it out")
        return
    label_of(config_of(place, "quality.model"), place, label)


def label_of(config: Any, place: str, label: str) -> int:
    """The number of the label that is good. Raises ValueError."""
    if not any("ForSequenceClassification" in name for name in config.architectures or ()):
        raise ValueError(
            f"quality.model: {place} is no sequence classifier; train one on it: pinisi train quality --encoder {place}"
        )
    names = [config.id2label[number] for number in range(config.num_labels)]
    if label:
        if label not in names:
            raise ValueError(f"quality.label: {place} has no label {label!r}: it has {', '.join(names)}")
        return names.index(label)
    if len(names) > 2:
        raise ValueError(f"quality.label: say which label of {place} is good: {', '.join(names)}")
    return len(names) - 1


def regression(good_NC: np.ndarray, rest_NC: np.ndarray) -> np.ndarray:
    """Weights and, last, the bias of a logistic regression, float64 [C + 1]: the least of
    `sum log(1 + exp(-y z)) + RIDGE / 2 |w|^2` with z = w x sqrt(C) + b, by Newton's method. The bias is free."""
    scale = np.sqrt(good_NC.shape[1])  # vectors of length 1: their entries become about 1
    x = np.concatenate([good_NC, rest_NC]).astype(np.float64) * scale
    x = np.concatenate([x, np.ones((len(x), 1))], 1)
    y = np.repeat([1.0, 0.0], [len(good_NC), len(rest_NC)])
    ridge = np.full(x.shape[1], RIDGE)
    ridge[-1] = 1e-6
    w = np.zeros(x.shape[1])

    def cost(w: np.ndarray) -> float:
        z = x @ w
        return float(np.logaddexp(0, z).sum() - y @ z + 0.5 * (ridge * w) @ w)

    now = cost(w)
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -500, 500)))
        gradient = x.T @ (p - y) + ridge * w
        step = np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + np.diag(ridge), gradient)
        size = 1.0
        while (then := cost(w - size * step)) > now and size > 1e-6:
            size /= 2
        w, gained, now = w - size * step, now - then, then
        if gained < 1e-9 * max(1.0, abs(now)):
            break
    return np.append(w[:-1] * scale, w[-1])


def _probability(vectors_NC: np.ndarray, head: np.ndarray) -> np.ndarray:
    z = vectors_NC.astype(np.float64) @ head[:-1] + head[-1]
    return np.round(1 / (1 + np.exp(-np.clip(z, -500, 500))), DECIMALS).astype(np.float32)


def _batches(order: list[int], windows: list[list[int]], tokens: int) -> Iterator[list[int]]:
    """Windows of like length, as many as `tokens` padded tokens."""
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * len(windows[i]) > tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


_POOLING = ("1_Pooling", "config.json")  # where sentence-transformers say it


def _first_token(place: str) -> bool:
    """Whether the vector of a text is that of its first token."""
    file = os.path.join(place, *_POOLING)
    if not os.path.exists(file):
        return False
    with open(file, encoding="utf-8") as opened:
        return bool(json.load(opened).get("pooling_mode_cls_token"))
