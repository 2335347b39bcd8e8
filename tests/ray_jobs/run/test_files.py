"""Which files a source means, and how they are named among themselves."""

import pytest

from cluster import storage
from ray_jobs.config.curation import Source
from ray_jobs.errors import UserError
from ray_jobs.run import files


def source(path: str, kind: str = "jsonl") -> Source:
    return Source(name="s", type=kind, path=path)


@pytest.mark.parametrize("name", ["a[1].jsonl", "a::b.jsonl", "a b#1.jsonl", "a?.jsonl", "ไทย.jsonl"])
def test_a_file_of_any_name_is_read(tmp_path, name):
    (tmp_path / name).write_text("{}")
    assert files.of_source(source(str(tmp_path / name))) == [str(tmp_path / name)]
    assert files.within(source(str(tmp_path / name)), str(tmp_path / name)) == name
    with pytest.raises(UserError, match="no file matches"):
        files.of_source(source(str(tmp_path / "none" / name)))


@pytest.mark.parametrize("scheme", ["", "file://", "memory:/"])
def test_names_within_a_source_are_unique_and_the_same_wherever_it_lies(tmp_path, scheme):
    seen = []
    for root in (f"{scheme}{tmp_path}/one", f"{scheme}{tmp_path}/two/deep"):
        for name in ("th/p.parquet", "vi/p.parquet", "vi/more/p.parquet"):
            storage.write_text(f"{root}/{name}", "x")
        for path in (root, f"{root}/", f"{root}/**/*.parquet", f"{root}/**"):
            found = files.of_source(source(path))
            names = [files.within(source(path), uri) for uri in found]
            assert len(found) == len(set(names)) == 3, path
            seen.append(names)
    assert seen[0] == seen[1] == seen[4] == seen[5] == ["th/p.parquet", "vi/more/p.parquet", "vi/p.parquet"]
    assert seen[:4] == seen[4:]
