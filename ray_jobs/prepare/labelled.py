"""Documents with their language from files of the user: Parquet or JSON Lines with `lang` and `text`, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ray_jobs.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 4096


def batches(part: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Batches of some string columns of one file. Raises UserError for a file without them."""
    import pyarrow as pa

    from cluster import storage
    from ray_jobs.run import files

    if part.endswith(".parquet"):
        with storage.open_parquet(part) as parquet:
            if missing := [name for name in columns if name not in parquet.schema_arrow.names]:
                raise UserError(f"{part}: has no column {missing[0]!r}; `lang` and `text` are needed")
            yield from parquet.iter_batches(BATCH_ROWS, columns=columns)
        return
    schema = pa.schema([(name, pa.string()) for name in columns])
    rows = files.rows(part)
    for row in rows:
        if missing := [name for name in columns if not isinstance(row.get(name), str | None) or name not in row]:
            raise UserError(f"{part}: a row has no text in the field {missing[0]!r}; `lang` and `text` are needed")
    for start in range(0, len(rows), BATCH_ROWS):
        chunk = [{name: row[name] for name in columns} for row in rows[start : start + BATCH_ROWS]]
        yield pa.RecordBatch.from_pylist(chunk, schema)
