import threading
import time
from itertools import islice

import pytest
import torch

from train.batches.parts import LossParts
from train.loader import Loader, ahead, calls_of
from train.loop import LoopConfig, fit


def batch_fn(rows):
    x = torch.tensor(rows, dtype=torch.float32)[:, None] * torch.tensor([1.0, -2.0, 0.5, 3.0]) / 50
    return {"x": x, "y": x.sin(), "count": torch.tensor(len(rows))}


def loss_fn(model, batch):
    error = model(batch["x"]) - batch["y"]
    return LossParts(error.square().sum(), len(error), {})


def counting(numbers):
    """Calls [0], [1], … for ever."""
    n = numbers[0]
    while True:
        n += 1
        yield [n]


@pytest.fixture
def loaders():
    made = []
    yield lambda *args, **more: made.append(Loader(*args, **more)) or made[-1]
    for loader in made:
        loader.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("loader")]


def test_batches_come_in_order_and_ahead(loaders):
    seen, lock = [], threading.Lock()

    def slow(numbers):
        time.sleep(0.002 * (numbers[0] % 3))  # later ones may be ready first
        with lock:
            seen.append(numbers[0])
        return {"n": torch.tensor(numbers)}

    loader = loaders(slow, counting, ahead=5)
    for n in range(40):
        assert loader([n])["n"].tolist() == [n]
        assert max(seen) <= n + 5
    assert loader.restarts == 1
    deadline = time.monotonic() + 120
    while len(seen) < 45 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(seen) == list(range(45))  # each once, five ahead, and no more


def test_another_row_than_foreseen_is_where_it_goes_on(loaders):
    loader = loaders(lambda numbers: {"n": torch.tensor(numbers)}, counting, ahead=3)
    for n in (0, 1, 2, 17, 18, 4, 5, 6):
        assert loader([n])["n"].tolist() == [n]
    assert loader.restarts == 3


def test_an_exception_is_raised_by_its_own_call(loaders):
    def failing(numbers):
        if numbers[0] == 3:
            raise ValueError("row 3 is bad")
        return {"n": torch.tensor(numbers)}

    loader = loaders(failing, counting, ahead=6)
    assert [loader([n])["n"].item() for n in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="row 3 is bad"):
        loader([3])
    assert loader([4])["n"].item() == 4


def test_closing_stops_what_waits(loaders):
    started = []

    def slow(numbers):
        started.append(numbers[0])
        time.sleep(0.05)
        return {}

    loader = loaders(slow, counting, ahead=200, threads=2)
    loader([0])
    began = time.monotonic()
    loader.close()
    assert time.monotonic() - began < 2 and len(started) < 20


CONFIG = LoopConfig(steps=7, rows_per_step=12, micro_rows=3, lr=1e-2, log_every=1, checkpoint_every=3)


@pytest.mark.parametrize("world", [1, 2, 5])
def test_calls_are_those_of_the_loop(world):
    for rank in range(world):
        calls = [
            list(range(step * 12 + rank, (step + 1) * 12, world)[i : i + 3])
            for step in range(7)
            for i in range(0, len(range(rank, 12, world)), 3)
        ]
        following = calls_of(CONFIG, rank, world)
        for start in range(len(calls)):
            assert list(following(calls[start])) == calls[start + 1 :]


def run(folder, batches, config=CONFIG):
    torch.manual_seed(0)
    model, records = torch.nn.Linear(4, 1), []
    fit(model, batches, loss_fn, config, str(folder), on_log=records.append)
    return [record["loss"] for record in records], [p.detach().clone() for p in model.parameters()]


def test_training_is_the_same_bit_for_bit_also_when_it_is_resumed(tmp_path):
    losses, weights = run(tmp_path / "without", batch_fn)
    with ahead(batch_fn, CONFIG) as loader:
        assert run(tmp_path / "with", loader)[0] == losses
        assert loader.restarts == 1 and next(islice(loader._coming, 1), None) is None

    def breaks(rows):
        if rows[0] >= 50:
            raise OSError("the store is gone")
        return batch_fn(rows)

    with pytest.raises(OSError, match="gone"), ahead(breaks, CONFIG) as loader:
        run(tmp_path / "resumed", loader)
    with ahead(batch_fn, CONFIG) as loader:
        again, resumed = run(tmp_path / "resumed", loader)
    assert again == losses[3:]
    assert all(torch.equal(a, b) for a, b in zip(weights, resumed, strict=True))
