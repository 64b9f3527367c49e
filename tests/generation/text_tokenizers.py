"""Tokenizers of every way of decoding, and ids for them."""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import chain
from typing import Any

from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from benchmarks.tiny_models import byte_tokenizer

TEXTS = (
    "ሰላም ነው abc",
    "ยินดี ครับ",
    "漢字 é🙂. 👍🏽",
    "👩‍👩‍👧 क्षि שָׁלוֹם",
    "\N{REPLACEMENT CHARACTER} here",
    "do n't , 's ' x ' !",
)
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def fast_tokenizer(backend: Tokenizer, **settings: Any) -> PreTrainedTokenizerFast:
    defaults: dict[str, Any] = {
        "unk_token": "<unk>",
        "eos_token": "</s>",
        "clean_up_tokenization_spaces": False,
    }
    return PreTrainedTokenizerFast(tokenizer_object=backend, **defaults | settings)  # type: ignore[no-untyped-call]


def word_tokenizer(words: Sequence[str], decoder: Any, **settings: Any) -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(["<unk>", "</s>", *words]))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if decoder is not None:
        backend.decoder = decoder
    return fast_tokenizer(backend, **settings)


def byte_fallback(*, strips: bool = True, **settings: Any) -> PreTrainedTokenizerFast:
    """Return a tokenizer of the kind of Llama 2, or of Gemma if it does not strip."""
    words = ["<unk>", "<s>", "</s>", *BYTES, "▁", *"abc.'n", "▁▁", "\N{REPLACEMENT CHARACTER}"]
    vocabulary = {word: index for index, word in enumerate(words)}
    backend = Tokenizer(
        models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    strip = [decoders.Strip(" ", 1, 0)] if strips else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return fast_tokenizer(backend, **settings)


def unigram(*, falls_back: bool = False, **settings: Any) -> PreTrainedTokenizerFast:
    """Return a tokenizer of the kind of T5, with byte fallback if it is to have that."""
    words = ["▁", "▁do", "ab", "c", "▁abc", ".", ",", "'", "n", "t", "s", "ሰ", "ላ", "ም", "▁ነው", "ש"]
    pieces = ["<unk>", "</s>", *(BYTES if falls_back else []), *words]
    scores = [(piece, -float(index % 7)) for index, piece in enumerate(pieces)]
    backend = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=falls_back))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    metaspace = decoders.Metaspace()
    backend.decoder = (
        decoders.Sequence([decoders.ByteFallback(), metaspace]) if falls_back else metaspace
    )
    return fast_tokenizer(backend, **settings)


def word_pieces(*, cleanup: bool = False, **settings: Any) -> PreTrainedTokenizerFast:
    """Return a tokenizer of the kind of BERT."""
    words = [
        *".,'?!ntsm",
        "##t",
        "n't",
        "'s",
        "'ve",
        "##e",
        "word",
        "漢",
        "字",
        "ሰላም",
        "ש",
        "",
        "##",
    ]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(["<unk>", "</s>", *words]))}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=cleanup)
    return fast_tokenizer(backend, **settings)


class PythonTokenizer(PreTrainedTokenizer):
    """A tokenizer without a backend in Rust, which joins word pieces and strips the result."""

    def __init__(self, words: Sequence[str], **settings: Any) -> None:
        self._ids = {word: i for i, word in enumerate(dict.fromkeys(["<unk>", *words]))}
        super().__init__(unk_token="<unk>", **settings)

    @property
    def vocab_size(self) -> int:
        return len(self._ids)

    def get_vocab(self) -> dict[str, int]:
        return dict(self._ids)

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return text.split()

    def _convert_token_to_id(self, token: str) -> int:
        return self._ids.get(token, 0)

    def _convert_id_to_token(self, index: int) -> str:
        return list(self._ids)[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return " ".join(tokens).replace(" ##", "").strip()


class StrictPythonTokenizer(PythonTokenizer):
    """A tokenizer that has no id for a name that it does not know."""

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return [word for word in text.split() if word in self._ids]

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        return self._ids[tokens] if isinstance(tokens, str) else [self._ids[t] for t in tokens]


class BytesTokenizer(PreTrainedTokenizer):
    """A tokenizer whose tokens are bytes, not strings (Qwen 1, ChatGLM)."""

    @property
    def vocab_size(self) -> int:
        return 256

    def get_vocab(self) -> dict[Any, int]:
        return {bytes([byte]): byte for byte in range(256)}

    def _tokenize(self, text: str, **kwargs: Any) -> Any:
        return [bytes([byte]) for byte in text.encode()]

    def _convert_token_to_id(self, token: Any) -> int | None:
        return token[0] if isinstance(token, bytes) else None

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        if isinstance(tokens, list):
            return [self._convert_token_to_id(each) for each in tokens]
        return self._convert_token_to_id(tokens)

    def _convert_id_to_token(self, index: int) -> Any:
        return bytes([index])

    def convert_tokens_to_string(self, tokens: Any) -> str:
        return b"".join(tokens).decode(errors="replace")


MAKERS: dict[str, Callable[[], Any]] = {
    "byte-level": byte_tokenizer,
    "byte fallback": byte_fallback,
    "byte fallback, not stripped": lambda: byte_fallback(strips=False),
    "byte fallback, cleaned up": lambda: unigram(
        falls_back=True, clean_up_tokenization_spaces=True
    ),
    "few bytes": lambda: word_tokenizer(
        [*(BYTES[each] for each in "é漢🙂".encode()), "<0xFF>", "▁one", "two", "▁"],
        decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()]),
    ),
    "unigram": unigram,
    "word pieces": word_pieces,
    "word pieces, cleaned up": lambda: word_pieces(clean_up_tokenization_spaces=True),
    "word pieces, cleaned up each": lambda: word_pieces(cleanup=True),
    "words": lambda: word_tokenizer(["one", "two", ".", "'", "ሰላም", "漢"], None),
    "words, cleaned up": lambda: word_tokenizer(
        ["one", "n't", ".", "'", "s", "t", "n", "漢"], None, clean_up_tokenization_spaces=True
    ),
    "metaspace words": lambda: word_tokenizer(["▁one", "▁", "two", "."], decoders.Metaspace()),
    "ends of words": lambda: word_tokenizer(
        ["on", "e</w>", "two</w>", "</w>"], decoders.BPEDecoder(suffix="</w>")
    ),
    "python": lambda: PythonTokenizer(["one", "##s", ".", "n't", "'", "ሰላም", ""]),
    "python, strict": lambda: StrictPythonTokenizer(["<s>", "one", "##s", ".", "ሰላም"]),
    "python, bytes": BytesTokenizer,
    "python, cleaned up": lambda: PythonTokenizer(
        ["one", "##s", ".", "n't", "'", "s"], clean_up_tokenization_spaces=True
    ),
}


@cache
def text_tokenizer(name: str) -> Any:
    return MAKERS[name]()


def ids_for(tokenizer: Any, *, least: int = 0, most: int) -> st.SearchStrategy[list[int]]:
    """Any ids, and the ids of whole texts and characters: any bytes would seldom be valid."""
    known = st.integers(0, len(tokenizer) - 1).map(lambda each: [each])
    texts = [tokenizer.encode(text, add_special_tokens=False) for text in (*TEXTS, "é", "漢", "🙂")]
    piece = st.one_of(known, known, st.sampled_from([ids for ids in texts if ids]))
    repeated = st.tuples(known, st.integers(1, 30)).map(lambda each: each[0] * each[1])
    pieces = st.lists(st.one_of(piece, piece, repeated), min_size=least, max_size=most)
    return pieces.map(lambda each: list(chain.from_iterable(each)))
