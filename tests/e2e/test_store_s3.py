"""Token stores on a local S3 server: the same rows as on disk, through the loader; damage is named; documents are appended."""

import numpy as np
import pytest

from cluster import storage
from mixture.order.sampler import Sampler, rows
from mixture.store import blocks
from mixture.store.token_store import TokenStore, append, write_store
from train.loader import ahead
from train.loop import LoopConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

WEIGHTS = {"all/th": 0.7, "all/lo": 0.3}


@pytest.fixture
def bucket(s3):
    s3.create_bucket(Bucket="stores")
    return "s3://stores"


def documents(first, n):
    for d in range(first, first + n):
        rng = np.random.default_rng(d)
        yield f"d{d}", "xx", 1, rng.integers(1, 60_000, rng.integers(10, 3000))


def test_rows_from_s3_are_those_from_disk(bucket, tmp_path):
    stores = {}
    for root in (str(tmp_path), bucket):
        for pool, n in (("all/th", 200), ("all/lo", 20)):
            write_store(storage.join(root, pool), documents(n, n), 65_536, 0)
        append(storage.join(root, "all/lo"), documents(1000, 15))
        stores[root] = {pool: TokenStore(storage.join(root, pool)) for pool in WEIGHTS}
        stores[root]["all/lo"].verify()
    near, far = (Sampler(s, [{"from_sample": 0, "weights": WEIGHTS}], 256, seed=1) for s in stores.values())
    config = LoopConfig(steps=8, rows_per_step=24, micro_rows=6, lr=1.0)
    with ahead(lambda numbers: rows(far, numbers), config) as loader:
        for first in range(0, 8 * 24, 6):
            numbers = list(range(first, first + 6))
            a, b = rows(near, numbers), loader(numbers)
            assert all(np.array_equal(a[name], b[name]) for name in a)
        assert loader.restarts == 1
    assert len(blocks._blocks) * blocks.BLOCK <= blocks.CACHE_BYTES

    path = storage.join(bucket, "all/th", "tokens.bin")
    data = bytearray(storage.read_bytes(path))
    data[70_000] ^= 4
    storage.write_bytes(path, bytes(data))
    blocks._blocks.clear()
    with (
        pytest.raises(ValueError, match=r"all/th/tokens\.bin: bytes 65536\.\.131071 are not what was written"),
        ahead(
            lambda numbers: rows(far, numbers), LoopConfig(steps=300, rows_per_step=8, micro_rows=8, lr=1.0)
        ) as loader,
    ):
        for first in range(0, 2400, 8):
            loader(list(range(first, first + 8)))
