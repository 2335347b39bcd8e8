"""Small tokenizers of the kinds that bases have, trained here: by bytes, and by pieces as SentencePiece has them."""

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from cluster.chatml import IM_END, IM_START
from mixture.tokenizer.tokenizer import with_chat_template

TEXTS = ["The boat sails to the island. user assistant system\n\nyes no 12 (a) ok"] * 40
CHAT = ["<|im_start|>user\nwhere is the boat?<|im_end|>\n<|im_start|>assistant\nat sea<|im_end|>\n"] * 40
SPECIAL = ["<|endoftext|>", IM_START, IM_END, "</s>", "<file_sep>", "[INST]"]
LIKE_SPECIAL = ["<think>", "</think>", "<｜User｜>"]  # control tokens that are not flagged as special
WORDS = ["boat", "  "]  # added, but no control tokens


def made(backend: Tokenizer, **more) -> PreTrainedTokenizerFast:
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    backend.add_tokens([AddedToken(name, special=False, normalized=False) for name in LIKE_SPECIAL + WORDS])
    return with_chat_template(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>", **more))


def by_bytes() -> PreTrainedTokenizerFast:
    """As GPT-2, Qwen and SmolLM."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    )
    return made(backend)


BYTES = [f"<0x{i:02X}>" for i in range(256)]


def by_pieces(texts: list[str] = TEXTS, scheme: str = "first") -> PreTrainedTokenizerFast:
    """As Mistral: merges over whole texts, a mark for each space, bytes for letters that are not known."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    backend.decoder = _pieces_decoder()
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=["<unk>", *BYTES], show_progress=False)
    backend.train_from_iterator(texts, trainer)
    # A trainer can only put the bytes in as added tokens, which a text could name.
    kept = backend.model
    fresh = Tokenizer(kept)
    fresh.pre_tokenizer, fresh.decoder = backend.pre_tokenizer, backend.decoder
    return made(fresh, unk_token="<unk>")


def by_llama() -> PreTrainedTokenizerFast:
    """As Llama 2: the mark of a space is put before each text between special tokens by the normalizer; a BOS."""
    own = by_pieces()
    backend = Tokenizer(own.backend_tokenizer.model)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = _pieces_decoder()
    backend.add_special_tokens([AddedToken("<s>", special=True, normalized=False)])
    number = backend.token_to_id("<s>")
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", number)])
    return made(backend, unk_token="<unk>", bos_token="<s>")


def by_unigram() -> PreTrainedTokenizerFast:
    """As T5 and llm-jp: the most probable pieces, among which the tokenizers library counts control tokens."""
    names = [("<unk>", 0.0), *((name, 0.0) for name in SPECIAL), *((byte, -20.0) for byte in BYTES)]
    letters = [(letter, -5.0) for letter in sorted(set("".join(TEXTS) + "▁<>/|_[]INSTfilesep"))]
    backend = Tokenizer(models.Unigram([*names, *letters, ("▁the", -2.0)], unk_id=0, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = _pieces_decoder()
    return made(backend, unk_token="<unk>")


def _pieces_decoder() -> decoders.Decoder:
    return decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])


KINDS = {
    "bytes": by_bytes,
    "pieces": by_pieces,
    "pieces always": lambda: by_pieces(scheme="always"),
    "llama": by_llama,
    "unigram": by_unigram,
}
