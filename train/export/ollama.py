"""An Ollama Modelfile for an exported model: its chat format, where an answer ends, and answers as `pinisi chat` gives them.

Ollama's templates are Go's. Its own default penalises repetition, which makes other text than greedy decoding does.
"""

from __future__ import annotations

from transformers import AutoTokenizer

from cluster import storage
from cluster.chatml import END_OF_TEXT, IM_END, IM_START

FILE = "Modelfile"
CHATML = f"""{{{{- range .Messages }}}}{IM_START}{{{{ .Role }}}}
{{{{ .Content }}}}{IM_END}
{{{{ end }}}}{IM_START}assistant
"""
PLAIN = "{{ .Prompt }}"


def modelfile(folder: str, gguf: str, context: int, chat: bool) -> str:
    """The text of a Modelfile for the model in `folder` (a URI) as the file named `gguf` beside it: with ChatML's turns for a
    `chat` model, else text that goes on.

    A token that the tokenizer puts before each text stands in the GGUF file, so not in the template."""
    tokenizer = AutoTokenizer.from_pretrained(storage.localize(folder))
    stops = [token for token in (IM_END, END_OF_TEXT, tokenizer.eos_token) if token in tokenizer.get_vocab()]
    lines = [
        f"FROM ./{gguf}",
        f'TEMPLATE """{CHATML if chat else PLAIN}"""',
        *(f'PARAMETER stop "{token}"' for token in dict.fromkeys(stops)),
        f"PARAMETER num_ctx {context}",
        "PARAMETER temperature 0",
        "PARAMETER repeat_penalty 1",
    ]
    return "\n".join(lines) + "\n"
