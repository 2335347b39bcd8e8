"""Counts of masked personal data in the manifest of filter/signals."""

import pyarrow as pa
import pytest

from cluster import storage
from curation.signals.measure import Measure
from ray_jobs.config import reader as recipes
from ray_jobs.config.curation import Filter
from ray_jobs.errors import UserError
from ray_jobs.stages.filter_signals import added, kinds, masked

RECIPE = {"name": "tiny", "sources": [{"name": "s", "type": "jsonl", "path": "/nothing/*.jsonl"}]}


def part(path, rows, **settings):
    columns = {"doc_id": [str(i) for i in range(len(rows))], "url": [""] * len(rows)}
    schema = pa.schema([(name, pa.string()) for name in ("doc_id", "url", "lang", "text")])
    columns |= {"lang": [lang for lang, _ in rows], "text": [text for _, text in rows]}
    batch = pa.RecordBatch.from_pydict(columns, schema=schema)
    storage.write_table(str(path), pa.Table.from_batches([Measure(["id", "th"], **settings)(batch)[0]]))
    return str(path)


def test_counts_by_language_and_kind(tmp_path):
    rows = [("id", "a@kantor.go.id b@kantor.go.id"), ("id", "HP 0812-3456-7890"), ("th", "x"), ("th", "c@baan.in.th")]
    one = part(tmp_path / "a.parquet", rows, masked=("email", "phone"))
    assert masked(one) == {"id": {"email": 2, "phone": 1}, "th": {"email": 1}}
    assert masked(part(tmp_path / "b.parquet", rows)) == {}
    assert masked(part(tmp_path / "c.parquet", [], masked=("email",))) == {}
    two = part(tmp_path / "d.parquet", rows[1:2], masked=("phone",))
    assert added(map(masked, [two, one, two])) == {"id": {"email": 2, "phone": 3}, "th": {"email": 1}}


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, ("email", "phone", "ip", "id")), (False, ()), (["ip"], ("ip",)), ([], ())],
)
def test_the_recipe_names_the_kinds(value, expected):
    assert kinds(Filter(mask_pii=value)) == expected
    assert recipes.parse({**RECIPE, "filter": {"mask_pii": value}}, "t").filter.mask_pii == value


def test_a_kind_that_does_not_exist_is_an_error():
    with pytest.raises(UserError, match="mask_pii"):
        recipes.parse({**RECIPE, "filter": {"mask_pii": ["mail"]}}, "t")
