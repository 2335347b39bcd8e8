"""Recipe section of translated and rephrased documents. Each key is documented in docs/recipe.md."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cluster.strict_yaml import Positive, Section, Share
from ray_jobs.config.wildbench import Endpoint


class SynthesisTask(Section):
    """One way to make texts of documents: by a prompt and a chat model, or by a translation model."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
    engine: Literal["hf", "vllm", "endpoint", "seq2seq"] = "hf"
    prompt: str | None = None  # a shipped one, or the name of a file of `synthesize.prompts`; seq2seq has none
    model: str | None = None  # a folder (any URI) or Hugging Face name
    endpoint: Endpoint | None = None
    licence: str | None = None  # of the model; needed where it is no folder
    languages: list[str] = []  # of the documents; empty: all of the recipe
    to: list[str] = []  # empty: the language of the document
    documents: Positive = 1000  # of each language, chosen by a hash of their id
    top_share: Share = 0.2  # of a language, by quality score
    piece_chars: Positive = 4000  # of a document that one request has
    max_new_tokens: Positive = 2048
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    beams: Positive = 4  # of seq2seq
    vllm_python: str | None = None

    @property
    def made_by(self) -> str:
        """The model, as columns and tables name it."""
        return self.endpoint.called if self.endpoint else (self.model or "").rstrip("/").rsplit("/", 1)[-1]

    @model_validator(mode="after")
    def _fits_engine(self) -> SynthesisTask:
        where = f"synthesize: task {self.name}"
        if (self.engine == "endpoint") != (self.endpoint is not None):
            raise ValueError(f"{where}: `engine: endpoint` and `endpoint` (base_url, model) go together")
        if (self.engine == "endpoint") == (self.model is not None):
            wrong = "names its model in `endpoint`, so take `model` out" if self.model else "needs a `model`"
            raise ValueError(f"{where}: engine {self.engine} {wrong}")
        if self.engine == "endpoint" and not self.licence:
            raise ValueError(
                f"{where}: a model behind an endpoint needs its `licence`, which decides what may be trained"
            )
        if (self.engine == "seq2seq") == (self.prompt is not None):
            wrong = "reads no prompt, so take `prompt` out" if self.prompt else "needs a `prompt`, such as translate"
            raise ValueError(f"{where}: engine {self.engine} {wrong}")
        if self.engine == "seq2seq" and not self.to:
            raise ValueError(f"{where}: a translation needs the languages that it goes `to`")
        return self


class Accept(Section):
    """What a made text must be to stay."""

    min_length: Annotated[float, Field(ge=0)] | None = None  # of the document's, as much text in every script
    max_length: Annotated[float, Field(gt=0)] | None = None  # None: those of the prompt
    max_copied: Share = 0.6  # of the text that stands in its document word for word
    policy: bool = True  # the bounds of its language, as pages have them
    round_trip: Share | None = None  # least chrF of a seq2seq translation, translated back


class Synthesize(Section):
    """Texts that models make of the best documents: translated, simplified, retold."""

    tasks: Annotated[list[SynthesisTask], Field(min_length=1)]
    prompts: list[str] = []  # globs of own prompt files
    max_share: dict[str, Annotated[float, Field(ge=0, lt=1)]] = {"default": 0.3}  # of a language's bytes
    accept: Accept = Accept()

    def bound(self, lang: str) -> float:
        return self.max_share.get(lang, self.max_share.get("default", 0.3))

    @model_validator(mode="after")
    def _names(self) -> Synthesize:
        names = [task.name for task in self.tasks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"synthesize: two tasks are called {twice[0]!r}")
        return self

    def outside(self, languages: list[str]) -> str | None:
        """A sentence about the first language that is not among those of the recipe."""
        named = [(f"task {task.name}", lang) for task in self.tasks for lang in (*task.languages, *task.to)]
        named += [("max_share", lang) for lang in self.max_share if lang != "default"]
        return next(
            (f"synthesize: {where}: {lang!r} is not in `languages`" for where, lang in named if lang not in languages),
            None,
        )
