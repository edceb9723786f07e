"""Text as numbers: bytes, or pieces of words learned from the text itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from netopsy._checks import NetopsyError, at_least, shorten
from netopsy._storage import write_atomic

PAD, BEGIN, END = "<pad>", "<begin>", "<end>"
"""The special tokens of `train_tokenizer`, which have the ids 0, 1 and 2."""


@runtime_checkable
class Tokenizer(Protocol):
    """What the text sets ask of a tokenizer.

    Attributes:
        size: number of ids: those of text and of special tokens are in [0, size).
        pad: id that fills a row up.
        begin: id in front of a text.
        end: id after a text.
    """

    @property
    def size(self) -> int: ...
    @property
    def pad(self) -> int: ...
    @property
    def begin(self) -> int: ...
    @property
    def end(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special ones."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special ones are left out, bytes that are no character become U+FFFD."""
        ...


@dataclass(frozen=True)
class ByteTokenizer:
    """The bytes of a text in UTF-8 are its ids; `pad`, `begin` and `end` come after them. It needs no training.

    >>> tokenizer = ByteTokenizer()
    >>> tokenizer.encode("né"), tokenizer.decode([110, 195, 169, tokenizer.end])
    ([110, 195, 169], 'né')
    """

    pad: ClassVar[int] = 256
    begin: ClassVar[int] = 257
    end: ClassVar[int] = 258
    size: ClassVar[int] = 259

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special ones."""
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special ones are left out, bytes that are no character become U+FFFD."""
        return bytes(number for number in ids if number < 256).decode(errors="replace")


@dataclass(frozen=True, kw_only=True)
class SubwordTokenizer:
    """Pieces of words, by a tokenizer of the library `tokenizers`; see `train_tokenizer` and `load_tokenizer`.

    What looks like a special token in a text is text: it never becomes that token's id.

    Attributes:
        definition: the tokenizer as the library writes it, the JSON of a `tokenizer.json`.
        names: of the special tokens `pad`, `begin` and `end` in that definition.

    Raises:
        ImportError: `tokenizers` is not installed.
        NetopsyError: the definition cannot be read, or lacks one of the special tokens.
    """

    definition: str = field(repr=False)
    names: tuple[str, str, str] = (PAD, BEGIN, END)

    def __post_init__(self) -> None:
        missing = [name for name in self.names if self._model.token_to_id(name) is None]
        if missing:
            known = [str(token.content) for token in self._model.get_added_tokens_decoder().values()]
            raise NetopsyError(
                f"tokenizer: expected the special tokens {', '.join(self.names)}; it has no {', '.join(missing)}, "
                f"but {shorten(known) or 'none at all'}; pass pad=, begin= and end= as it names them"
            )

    @cached_property
    def _model(self) -> Any:
        library = _library()
        try:
            model = library.Tokenizer.from_str(self.definition)
        except Exception as error:  # the library raises nothing narrower
            raise NetopsyError(
                f"tokenizer: expected the JSON that the library tokenizers writes; it cannot be read ({error})"
            ) from error
        model.no_padding()
        model.no_truncation()
        model.encode_special_tokens = True
        return model

    def __getstate__(self) -> dict[str, Any]:
        """Without `_model`, which would come back from a pickle with other settings."""
        return {"definition": self.definition, "names": self.names}

    @cached_property
    def size(self) -> int:
        """Number of ids, special ones included."""
        return int(self._model.get_vocab_size())

    @cached_property
    def pad(self) -> int:
        """Id that fills a row up."""
        return self._id(0)

    @cached_property
    def begin(self) -> int:
        """Id in front of a text."""
        return self._id(1)

    @cached_property
    def end(self) -> int:
        """Id after a text."""
        return self._id(2)

    def _id(self, place: int) -> int:
        return int(self._model.token_to_id(self.names[place]))

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special ones."""
        ids: list[int] = self._model.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special ones are left out, bytes that are no character become U+FFFD."""
        return str(self._model.decode(list(ids), skip_special_tokens=True))

    def save(self, path: str | Path) -> Path:
        """Write the definition, whole or not at all: a `tokenizer.json`, which Hugging Face's libraries read too."""
        path = Path(path)
        write_atomic(path, lambda temporary: temporary.write_text(self.definition, encoding="utf-8"))
        return path


def train_tokenizer(texts: Iterable[str], size: int) -> SubwordTokenizer:
    """Learn pieces of words by byte-pair encoding (Sennrich, Haddow, Birch 2016) on bytes (Radford et al. 2019).

    Every text can be encoded and comes back exactly, also one of other characters than those learned from. The same
    texts always give the same tokenizer: of equally frequent pairs, the ids decide. (The library's WordPiece is not
    like that. The layers paper uses SentencePiece.)

    Args:
        texts: to learn from: those of the train split only.
        size: number of ids, of which 3 are special and 256 bytes; texts of few different words give fewer.

    Raises:
        ImportError: `tokenizers` is not installed.
        NetopsyError: `size` is below 259.
    """
    at_least("size (3 special tokens, 256 bytes, and pieces)", size, 259)
    library = _library()
    model = library.Tokenizer(library.models.BPE())
    model.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PAD, BEGIN, END],
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(texts, trainer)
    return SubwordTokenizer(definition=model.to_str())


def load_tokenizer(path: str | Path, *, pad: str = PAD, begin: str = BEGIN, end: str = END) -> SubwordTokenizer:
    """Read a `tokenizer.json`: one that `SubwordTokenizer.save` wrote, or one of a pretrained model.

    Only a tokenizer that keeps everything, as those of `train_tokenizer` do, gives a text back exactly; BERT's gives
    it in lower case.

    Args:
        path: of the file, or of the folder that it lies in.
        pad: name of the token that fills a row up; BERT's is "[PAD]".
        begin: name of the token in front of a text; BERT's is "[CLS]".
        end: name of the token after a text; BERT's is "[SEP]".

    Raises:
        ImportError: `tokenizers` is not installed.
        NetopsyError: there is no such file, it is damaged, or it lacks one of the tokens.
    """
    file = Path(path)
    file = file / "tokenizer.json" if file.is_dir() else file
    try:
        definition = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NetopsyError(f"{file}: expected a tokenizer.json; it cannot be read ({error})") from error
    try:
        return SubwordTokenizer(definition=definition, names=(pad, begin, end))
    except NetopsyError as error:
        raise NetopsyError(f"{file}: {error}") from error


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError('Learned tokenizers need the library tokenizers: pip install "netopsy[text]"') from error
    return tokenizers
