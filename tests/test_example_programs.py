"""The programs of examples/ do what their first lines say, from another folder and with nothing but their arguments."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parent.parent
FERRY = """The ferry to the islands leaves from the old pier at seven every morning, weather permitting. Passengers should be
there half an hour early, because bicycles and market baskets go on first and the deck fills quickly. The captain keeps a notebook
of who travels where, so that nobody is forgotten on the way back. In the rainy season the crossing takes almost two hours; when
the sea is calm, forty minutes are enough. Tea is sold below, and children under ten pay nothing at all."""
BREAD = """My aunt bakes bread on Saturdays with flour from the mill behind our house. She never weighs anything: a bowl of flour,
a pinch of salt, warm water, and the dough that was left from last week. While it rises we sweep the yard and feed the hens. The
loaves go into the clay oven when a piece of paper turns brown in it without burning. We eat the first one standing, with butter
and honey, and the neighbours come by to ask whether there is perhaps one more for them."""
LAO = "ສະບາຍດີ ມື້ນີ້ພວກເຮົາຈະໄປຕະຫຼາດເພື່ອຊື້ຜັກ ປາ ແລະ ໝາກໄມ້ ຢູ່ແຄມນໍ້າຂອງ"


def run(program, *arguments, launcher=()):
    command = [sys.executable, *launcher, str(ROOT / "examples" / program), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    (folder / "lo.txt").write_text("\n".join(f"{LAO} {number}" for number in range(80)), "utf-8")
    (folder / "en.txt").write_text(
        "\n".join(f"The boat number {n} sails at dawn with rice and fish." for n in range(80))
    )
    return folder


def test_kernels_on_parquet(tmp_path):
    rows = [("a", FERRY), ("b", FERRY.replace("captain", "skipper")), ("c", BREAD), ("d", "too short"), ("e", None)]
    pq.write_table(
        pa.table({"doc_id": [i for i, _ in rows], "text": [t or "" for _, t in rows]}), tmp_path / "in.parquet"
    )
    run("kernels_on_parquet.py", tmp_path / "in.parquet", tmp_path / "out", "--language", "en")
    kept = pq.read_table(tmp_path / "out" / "part-00000.parquet")
    dropped = pq.read_table(tmp_path / "out" / "dropped" / "policy" / "part-00000.parquet")
    near = pq.read_table(tmp_path / "out" / "dropped" / "dedup" / "part-00000.parquet")
    assert {"word_count", "char_repetition"} <= set(kept.column_names)
    assert {"d", "e"} <= set(dropped["doc_id"].to_pylist())
    assert set(near["rule"].to_pylist()) == {"near_duplicate"} and near.num_rows == 1
    assert "c" in kept["doc_id"].to_pylist() and kept.num_rows == 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_store_sampler_and_loop(texts, tmp_path):
    said = run("store_and_sampler.py", tmp_path, texts / "lo.txt", texts / "en.txt")
    assert "{'en': 512, 'lo': 512} {'en': 768, 'lo': 1280}" in said and "its documents: " in said
    alone = run("train_torchrun.py", tmp_path)
    assert "'step': 20" in alone and (tmp_path / "trained" / "model" / "model.safetensors").is_file()
    (tmp_path / "trained").rename(tmp_path / "alone")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    both = run("train_torchrun.py", tmp_path, launcher=launcher)
    losses = [
        [line.split("'loss': ")[1].split(",")[0] for line in said.splitlines() if "'loss'" in line]
        for said in (alone, both)
    ]
    assert [pytest.approx(float(one), rel=1e-4) for one in losses[0]] == [float(one) for one in losses[1]]
