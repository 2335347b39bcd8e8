"""Text edits before filtering (those of SailCraft), as one numba pass over the Arrow buffers of a batch.

- All Unicode whitespace becomes one plain space between tokens. Newlines stay (SailCraft drops them): one between lines, an empty
  line between paragraphs. Control characters and byte-order marks go.
- `ascii_punctuation`: typographic and full-width punctuation becomes ASCII; full-width digits and letters are left alone.
- `delete_url_tokens`: a token that contains http, www, .com, href or // goes, in any case.
- `long_token_chars`: a token goes that has more characters than that, special ones at its ends not counted.

A token is what stands between whitespace, without the stretches in scripts that have no spaces: those are never deleted,
and a URL glued to them goes alone (SailCraft deletes half of a Thai text as "long tokens").
"""

from __future__ import annotations

from collections.abc import Mapping

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.policy.keys import Policy
from curation.policy.policy import load, of_language
from curation.text.characters import ASCII, BITS, IGNORED, MARK, SPACE, SPECIAL, UNSPACED
from curation.text.units import decode, text_buffers

NO_LIMIT = np.iinfo(np.int64).max
_NONE, _SPACE, _LINE, _PARAGRAPH = range(4)  # what must be written before the next character


def normalise(batch: pa.RecordBatch, policies: Mapping[str, Policy] | None = None) -> pa.RecordBatch:
    """The batch with its `text` edited as the policy of its `lang` says (by default that of its language file).

    A null text stays null. Documents of a language without a policy are edited as `default`.
    """
    langs = batch["lang"].to_pylist()
    if policies is None:
        policies = {lang: of_language(lang) for lang in dict.fromkeys(langs)}
    policies = {"default": load("default"), **policies}
    switches = np.zeros((len(langs), 2), np.bool_)
    limits = np.full(len(langs), NO_LIMIT, np.int64)
    for i, lang in enumerate(langs):
        policy = policies.get(lang) or policies["default"]
        switches[i] = policy.ascii_punctuation, policy.delete_url_tokens
        limits[i] = policy.long_token_chars or NO_LIMIT
    column = batch.schema.get_field_index("text")
    return batch.set_column(column, batch.schema.field(column), edit(batch["text"], switches, limits))


def edit(text: pa.Array, switches: np.ndarray, limits: np.ndarray) -> pa.Array:
    """Edit texts [N] with `switches` bool [N, 2] (ascii_punctuation, delete_url_tokens) and token limits int64 [N]."""
    data, offsets = text_buffers(text)
    out = np.empty(int(offsets[-1] - offsets[0]) if len(text) else 0, np.uint8)
    ends = np.zeros(len(text) + 1, np.int64)
    _edit(data, offsets, switches, limits, BITS, ASCII, out, ends)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(out[: ends[-1]])]
    edited = pa.LargeStringArray.from_buffers(len(text), buffers[1], buffers[2])
    if text.null_count:
        edited = pc.if_else(text.is_null(), pa.scalar(None, pa.large_string()), edited)
    return edited.cast(text.type)


@numba.njit(inline="always")
def _small(byte):
    return byte | 0x20 if 0x41 <= byte <= 0x5A else byte


@numba.njit(cache=True)
def _has_url(out, start, end):
    for i in range(start, end - 1):
        first, second = _small(out[i]), _small(out[i + 1])
        if first == 0x2F and second == 0x2F:  # //
            return True
        if i + 2 >= end:
            continue
        third = _small(out[i + 2])
        if first == 0x77 and second == 0x77 and third == 0x77:  # www
            return True
        if i + 3 >= end:
            continue
        fourth = _small(out[i + 3])
        if first == 0x68 and second == 0x74 and third == 0x74 and fourth == 0x70:  # http
            return True
        if first == 0x68 and second == 0x72 and third == 0x65 and fourth == 0x66:  # href
            return True
        if first == 0x2E and second == 0x63 and third == 0x6F and fourth == 0x6D:  # .com
            return True
    return False


@numba.njit(cache=True)
def _edit(data, offsets, switches, limits, table, ascii_table, out, ends):  # noqa: PLR0917
    at = 0
    for d in range(len(offsets) - 1):
        begin = at
        i, end = offsets[d], offsets[d + 1]
        ascii_on, url_on, limit = switches[d, 0], switches[d, 1], limits[d]
        need = _NONE
        line_has_text = unspaced = False
        token = -1  # where the token starts in `out`, before its separator; -1 outside of one
        token_need, token_text, chars, trimmed = _NONE, 0, 0, 0
        while True:
            more = i < end
            code, kind, start = 0x0A, np.uint8(SPACE | SPECIAL), i
            if more:
                code, step = decode(data, i, end)
                i += step
                kind = table[code]
                if code == 0xFEFF or (code < 0x20 and not kind & SPACE) or 0x7F <= code < 0x85 or 0x86 <= code < 0xA0:
                    continue
            if kind & IGNORED == 0:
                unspaced = kind & UNSPACED != 0 or (unspaced and kind & MARK != 0)
            breaks = kind & SPACE != 0 or unspaced
            if token >= 0 and breaks:
                if trimmed > limit or (url_on and _has_url(out, token_text, at)):
                    at, need = token, token_need
                token = -1
            if not more:
                break
            if kind & SPACE:
                if code in (0x0A, 0x0B, 0x0C, 0x0D, 0x85, 0x2028, 0x2029):
                    if code == 0x0A and start > offsets[d] and data[start - 1] == 0x0D:
                        continue  # \r\n is one newline
                    need = max(need, _LINE if line_has_text else _PARAGRAPH)
                    line_has_text = False
                else:
                    need = max(need, _SPACE)
                continue
            line_has_text = True
            opens = token < 0 and not breaks
            if opens:
                token, token_need = at, need
            if need != _NONE and at > begin:
                out[at] = 0x20 if need == _SPACE else 0x0A
                at += 1
                if need == _PARAGRAPH:
                    out[at] = 0x0A
                    at += 1
            need = _NONE
            if opens:
                token_text, chars, trimmed = at, 0, 0
            if not breaks:
                special = kind & SPECIAL != 0
                if chars or not special:
                    chars += 1
                if not special:
                    trimmed = chars
            plain = ascii_table[code] if ascii_on and code < len(ascii_table) else np.uint8(0)
            if plain:
                for _ in range(3 if code == 0x2026 else 1):
                    out[at] = plain
                    at += 1
            else:
                for j in range(start, i):
                    out[at] = data[j]
                    at += 1
        ends[d + 1] = at
