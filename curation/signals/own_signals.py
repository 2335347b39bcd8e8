"""Signals of the user's own: `filter.signals: [package.module:function]`.

Such a function takes a batch of documents (`doc_id`, `url`, `lang`, `text` as measured, and the other columns that a document
has by then) and gives its columns by name: `{"links_per_word": [0.1, 0.0, …]}`, a number or null for each document. It must work
on a batch without documents, from which its names are known before the run. Each column is a signal like any other: a policy
puts bounds on it, `pinisi policy --try` tries them, a percentile of reference documents may be one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa

from cluster import user_code
from curation.policy.signal_schema import FIELDS
from curation.schema import DOCUMENT

KEY = "filter.signals"
Columns = Mapping[str, Sequence[float | None] | pa.Array]

NOTHING = pa.RecordBatch.from_pylist(
    [], schema=pa.schema([*DOCUMENT, ("lang", pa.string()), ("lang_score", pa.float32()), *FIELDS])
)


class OwnSignals:
    """Batch -> the same with the columns of `functions` appended, as float64. Can be pickled.

    Raises ValueError for a function that cannot be imported, fails on no documents, or gives a name that is taken."""

    def __init__(self, functions: Sequence[str], folder: str):
        self.functions, self.folder = tuple(functions), folder
        self.names: tuple[str, ...] = ()
        for name in self.functions:
            found = self._columns(name, NOTHING)
            if taken := [column for column in found if column in (*NOTHING.schema.names, *self.names)]:
                raise ValueError(f"{KEY}: {name} gives {taken[0]!r}, which is a column already; give it another name")
            if not found:
                raise ValueError(f"{KEY}: {name} gives no column for a batch without documents")
            self.names += tuple(found)

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        for name in self.functions:
            for column, values in self._columns(name, batch).items():
                batch = batch.append_column(column, values)
        return batch

    def _columns(self, name: str, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        function: Callable[[pa.RecordBatch], Columns] = user_code.function(name, self.folder, KEY)
        try:
            found = function(batch)
            columns = {column: pa.array(values, pa.float64()) for column, values in dict(found).items()}
        except Exception as error:  # the user's own lines
            raise ValueError(f"{KEY}: {name} fails on a batch of {batch.num_rows} documents: {error}") from error
        for column, values in columns.items():
            if len(values) != batch.num_rows:
                raise ValueError(f"{KEY}: {name} gives {len(values)} values of {column} for {batch.num_rows} documents")
        return columns
