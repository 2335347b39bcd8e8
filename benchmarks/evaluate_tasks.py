"""Questions with options a second: ours, which read what questions share once, beside lm-eval's HFLM on the same model and CPU.

    python benchmarks/evaluate_tasks.py [--rows GLOB…] [--model FOLDER] [--limit 60]

Both get the same questions as the same token ids, in fp32 on one thread, in turns (three rounds; the median counts). lm-eval
batches 16 requests, sorted by length, as its users set it. Scores must be equal within 1e-3 nats, or the program stops.
Writes benchmarks/results/evaluate-tasks.json.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from table import row, write

ROOT = Path(__file__).resolve().parents[1]
SHAPE = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 384,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", default=[str(ROOT / "sample/eval/options/*.jsonl")])
    parser.add_argument("--model", help="a Hugging Face folder; a random model of the demo's shape without one")
    parser.add_argument("--limit", type=int, default=60, help="questions of a task and language")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        where = args.model or _random(args.rows, folder)
        rows = [measured for shots in (0, 3) for measured in measure(args, where, shots)]
    write("evaluate-tasks", rows, tuned_on="nothing")


def measure(args, where: str, shots: int) -> list[dict]:
    from transformers import AutoTokenizer

    from train import model
    from train.tasks.options import option_scores

    tokenizer = AutoTokenizer.from_pretrained(where)
    asked = [question for cell in _questions(args, tokenizer, shots) for question in cell]
    net, theirs = model.load(where), _peer(where, tokenizer)
    requests = [
        (("", ""), [*question.shared, *question.prompt], list(option))
        for question in asked
        for option in question.options
    ]
    seconds: dict[str, list[float]] = {"ours": [], "lm-eval": []}
    for _ in range(3):
        start = time.process_time()
        found = option_scores(net, asked)
        seconds["ours"].append(time.process_time() - start)
        start = time.process_time()
        wanted = theirs._loglikelihood_tokens(requests, disable_tqdm=True)
        seconds["lm-eval"].append(time.process_time() - start)
    off = np.abs(np.concatenate([one.option for one in found]) - [score for score, _ in wanted]).max()
    if off > 1e-3:
        raise SystemExit(f"the scores differ by {off}")
    ours, peer = (len(asked) / median(seconds[name]) for name in ("ours", "lm-eval"))
    name = f"questions with options, {shots} examples before each ({len(asked)} questions)"
    return [row(name, "questions/CPU s", ours, peer=("lm-eval 0.4.13", peer), target=round(3 * peer, 1))]  # 3 x theirs


def _questions(args, tokenizer, shots: int):
    """The questions of each task and language, as the stage `tasks` makes them."""
    import json
    from glob import glob

    from cluster import document_tokens
    from curation.lid.tags import code
    from mixture.tokenizer import tokenizer as tokenizers
    from train.tasks import rows, task
    from train.tasks.measure import _continued
    from train.tasks.options import Question

    known = task.shipped()
    begin = document_tokens.begin(tokenizer) or [document_tokens.end(tokenizer)]

    def encode(texts):
        return [ids.tolist() for ids in tokenizers.encode(tokenizer, texts)]

    for path in sorted(name for pattern in args.rows for name in glob(pattern)):
        found = [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]
        name = rows.task_of(found[0], path, rows.names({key: one.known_as for key, one in known.items()}))
        items = [known[name].item(one, rows.language_of(one, path, (), code)) for one in found]
        examples, items = task.shots(items, shots)
        shared = (*begin, *encode(["".join(f"{item.solved()}\n\n" for item in examples)])[0])
        yield [
            Question(shared, encode([item.prompt])[0], _continued(encode, list(item.options)))
            for item in items[: args.limit]
        ]


def _peer(where: str, tokenizer):
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32).eval()
    return HFLM(pretrained=net, tokenizer=tokenizer, batch_size=16, device="cpu")


def _random(patterns: list[str], folder: str) -> str:
    from glob import glob

    from mixture.tokenizer import tokenizer as tokenizers
    from train import model

    texts = [Path(name).read_text("utf-8") for pattern in patterns for name in sorted(glob(pattern))]
    tokenizer = tokenizers.train_bpe(texts, 8192, f"{folder}/tokenizer")
    model.save(model.build({**SHAPE, "vocab_size": 8192}, 1), tokenizer, f"{folder}/model", context=2048)
    return f"{folder}/model"


if __name__ == "__main__":
    main()
