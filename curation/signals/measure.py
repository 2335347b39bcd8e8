"""What filter/signals does to a batch: mask personal data, edit the text, measure every signal. Nothing is dropped.

Masking comes first, so that the edits (which delete tokens with `.com` in some languages) see tokens instead of addresses,
and the signals are those of the text that goes on. Perplexity comes after them, on the edited text, and the user's own last.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pyarrow as pa

from curation.lm.perplexity import PerplexityColumn
from curation.signals.masking import known, mask
from curation.signals.own_signals import OwnSignals
from curation.signals.text_signals import signals_kernel
from curation.signals.word_order import Order
from curation.text.form import in_one_form


class Measure:
    """Kernel documents -> (documents with masked, edited text and signal columns, empty ledger). Can be pickled.

    `masked`: kinds of `curation.signals.pii_patterns.KINDS`; with any there is a column `pii` of counts. `perplexity_models`: a
    folder of `pinisi train lm`; without one the signal `perplexity` is null. `orders` are by language what the signal
    `word_order` needs; it is null in others. `folder`: language files of the user. Raises ValueError for an unknown kind or a
    folder without models.
    """

    def __init__(
        self,
        languages: list[str],
        lists: Mapping[str, Mapping[str, tuple[str, ...]]] | None = None,
        *,
        masked: Collection[str] = (),
        perplexity_models: str | None = None,
        own: OwnSignals | None = None,
        orders: Mapping[str, Order] | None = None,
        folder: str | None = None,
    ):
        self.signals = signals_kernel(languages, lists, orders, folder)
        self.masked = known(masked)
        self.perplexity = PerplexityColumn(perplexity_models) if perplexity_models else None
        self.own = own

    def __call__(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        text = batch.schema.get_field_index("text")  # spans of what is masked are of the text in its one form
        batch = batch.set_column(text, batch.schema.field(text), in_one_form(batch["text"]))
        measured, drops = self.signals(mask(batch, self.masked) if self.masked else batch)
        measured = self.perplexity(measured) if self.perplexity else measured
        return self.own(measured) if self.own else measured, drops
