"""Translation of conversations by a Hugging Face sequence-to-sequence model such as NLLB or M2M100.

Such a model reads sentences. So each turn is cut into lines and lines into sentences; marks at the head of a line (lists,
headings, quotes) and, with `keep`, code, formulas, URLs and addresses stay as they are; the rest is translated, sentences of
like length together, and put back in its place. The first token of every translation is forced to be the code of the target
language (`forced_bos_token_id`), or the model writes in any language.

NLLB is refused for Chinese: its vocabulary lacks common characters, so texts come out with unknown tokens and cut short
(as Sailor2 found). M2M100 and others are not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedTokenizerBase

from cluster import storage

NLLB = {
    **{"my": "mya_Mymr", "ceb": "ceb_Latn", "ilo": "ilo_Latn", "id": "ind_Latn", "jv": "jav_Latn", "km": "khm_Khmr"},
    **{"lo": "lao_Laoo", "ms": "zsm_Latn", "su": "sun_Latn", "tl": "tgl_Latn", "th": "tha_Thai", "vi": "vie_Latn"},
    **{"war": "war_Latn", "en": "eng_Latn", "zh": "zho_Hans", "ta": "tam_Taml", "min": "min_Latn", "ace": "ace_Latn"},
}
"""Our language codes as NLLB (FLORES-200) writes them; another language is named by its FLORES code."""

KEPT = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]+`|\$\$.*?\$\$|\$[^$\n]+\$|\\\[.*?\\\]|\\\(.*?\\\)|(?:https?://|www\.)\S+|\S+@\S+\.\w+",
    re.DOTALL,
)
_HEAD = re.compile(r"[ \t]*(?:(?:[-*+•>#]+|\d+[.)])[ \t]+)*")
_SENTENCE = re.compile(r"(?<=[.!?…])[ \t]+|(?<=[။។。！？])[ \t]*")
_LETTER = re.compile(r"[^\W\d_]")


class Seq2Seq(nn.Module):
    """What is called of a sequence-to-sequence model of `transformers`; never made."""

    generate: Callable[..., Tensor]


class Translator(NamedTuple):
    """A loaded model. `source_code` and `target_code` are its own names of the two languages."""

    model: Seq2Seq
    tokenizer: PreTrainedTokenizerBase
    source_code: str
    target_code: str


def load(folder: str, source: str, target: str, dtype: torch.dtype = torch.float32) -> Translator:
    """The model in a folder (any URI) or of a Hugging Face name, for one direction; safetensors only.

    Raises ValueError for a model that cannot be read, or does not know a language, and for Chinese by NLLB.
    """
    path = storage.localize(folder) if storage.exists(folder) else folder
    tokenizer = load_tokenizer(path)
    source_code, target_code = (code(tokenizer, lang) for lang in (source, target))  # before the weights are read
    try:
        model = AutoModelForSeq2SeqLM.from_pretrained(path, dtype=dtype, use_safetensors=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: no sequence-to-sequence model in safetensors: {error}") from None
    return Translator(cast(Seq2Seq, model.eval()), tokenizer, source_code, target_code)


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer in a local folder or of a hub name. Raises ValueError when it is not one of a translation model."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: no tokenizer of a translation model: {error}") from None
    if not hasattr(tokenizer, "src_lang"):
        raise ValueError(f"{path}: its tokenizer has no source language; those of NLLB and M2M100 have")
    return tokenizer


def code(tokenizer: PreTrainedTokenizerBase, lang: str) -> str:
    """What the model calls `lang`: NLLB's code, or M2M100's two letters. Raises ValueError when it has no such token."""
    vocabulary = tokenizer.get_vocab()
    flores = NLLB.get(lang, lang)
    if flores in vocabulary and "_" in flores:
        if flores.startswith(("zho_", "yue_")):
            raise ValueError(
                f"{lang}: NLLB cannot translate Chinese: its vocabulary lacks common characters, so texts come out with "
                "unknown tokens and cut short; use another model"
            )
        return flores
    if f"__{lang}__" in vocabulary:
        return lang
    raise ValueError(f"{lang}: the translation model knows no such language")


def translate(
    translator: Translator,
    texts: list[str],
    *,
    keep: bool = True,
    beams: int = 4,
    batch_tokens: int = 4096,
    max_sentence_tokens: int = 500,
    split: Callable[[str, bool], list[tuple[str, bool]]] | None = None,
) -> list[tuple[str, str]]:
    """(translation, "") of each text, or ("", why there is none). Equal texts and settings give equal translations.

    `split`: another way to cut a text than that of this module."""
    pieces = [(split or _split)(text, keep) for text in texts]
    sentences = sorted({sentence for found in pieces for sentence, wanted in found if wanted})
    done = _sentences(translator, sentences, beams, batch_tokens, max_sentence_tokens)
    results = []
    for found in pieces:
        wrong = next((done[sentence][1] for sentence, wanted in found if wanted and done[sentence][1]), "")
        joined = "".join(done[sentence][0] if wanted else sentence for sentence, wanted in found)
        results.append(("", wrong) if wrong else (joined, ""))
    return results


def split(text: str, keep: bool = True) -> list[tuple[str, bool]]:
    """The pieces of `text`, whose concatenation it is, each with whether it is to be translated."""
    pieces: list[tuple[str, bool]] = []
    start = 0
    for match in KEPT.finditer(text) if keep else ():
        pieces += _lines(text[start : match.start()])
        pieces.append((match.group(), False))
        start = match.end()
    return pieces + _lines(text[start:])


_split = split  # under a name that no argument has


def _lines(text: str) -> list[tuple[str, bool]]:
    pieces = []
    for line in re.split(r"(\n+)", text):
        found = _HEAD.match(line)
        assert found, "it matches anything"
        head = start = found.end()
        pieces.append((line[:head], False))
        ends = [match.span() for match in _SENTENCE.finditer(line, head)] + [(len(line), len(line))]
        for stop, following in ends:
            sentence = line[start:stop]
            body = sentence.strip()
            at = sentence.find(body) if body else 0
            pieces += [(sentence[:at], False), (body, bool(_LETTER.search(body))), (sentence[at + len(body) :], False)]
            pieces.append((line[stop:following], False))
            start = following
    return [(piece, wanted) for piece, wanted in pieces if piece]


@torch.no_grad()
def _sentences(
    translator: Translator, sentences: list[str], beams: int, batch_tokens: int, longest: int
) -> dict[str, tuple[str, str]]:
    """Each sentence with (its translation, "") or ("", why there is none); longest first, of like length together."""
    model, tokenizer = translator.model, translator.tokenizer
    tokenizer.src_lang = translator.source_code
    first = _token(tokenizer, translator.target_code)
    device = next(model.parameters()).device
    lengths = [len(ids) for ids in tokenizer(sentences)["input_ids"]] if sentences else []
    done = {
        sentence: ("", f"a sentence of {length} tokens is longer than {longest}")
        for sentence, length in zip(sentences, lengths, strict=True)
        if length > longest
    }
    order = sorted((i for i in range(len(sentences)) if lengths[i] <= longest), key=lambda i: (-lengths[i], i))
    while order:
        rows = max(1, batch_tokens // (lengths[order[0]] * beams))
        batch, order = [sentences[i] for i in order[:rows]], order[rows:]
        inputs = tokenizer(batch, padding=True, return_tensors="pt").to(device)
        width = inputs["input_ids"].shape[1]
        out = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            forced_bos_token_id=first,
            num_beams=beams,
            do_sample=False,
            max_new_tokens=3 * width + 32,
        )
        unknown = tokenizer.unk_token_id
        for sentence, ids in zip(batch, out.tolist(), strict=True):
            if tokenizer.eos_token_id not in ids[2:]:  # the first two are the start and the language
                done[sentence] = ("", "a translation did not come to an end")
            elif unknown is not None and unknown in ids:
                done[sentence] = ("", "a translation has an unknown token")
            else:
                text = tokenizer.decode(ids, skip_special_tokens=True)
                assert isinstance(text, str)  # of one sequence
                done[sentence] = (text.strip(), "")
    return done


def _token(tokenizer: PreTrainedTokenizerBase, name: str) -> int:
    vocabulary = tokenizer.get_vocab()
    return vocabulary[name] if name in vocabulary else vocabulary[f"__{name}__"]
