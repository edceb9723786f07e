"""Tokenizers, and the tensors of language models and classifiers."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from netopsy._checks import NetopsyError
from netopsy._identity import digest
from netopsy._random import generator
from netopsy.data.text import IGNORED, TextDataset, classification_set, language_model_set
from netopsy.data.tokenizer import (
    BEGIN,
    END,
    PAD,
    ByteTokenizer,
    SubwordTokenizer,
    Tokenizer,
    load_tokenizer,
    train_tokenizer,
)

CORPUS = [
    "a barking thing that runs after other barking things",
    "the act of running; 'a running dog barks'",
    "draw air into, and expel out of, the lungs",
    "having the necessary means or skill to do something",
] * 5
HARD = [
    "",
    " ",
    "  two  spaces ",
    "tab\tline\nreturn\r\n",
    "\x00",
    "naïve café – “quoted” 日本語 🙂 e\u0301",
    f"{PAD} and {BEGIN}text{END}",
    "UPPER lower 12,345.67",
    "\ufffd",
]
SIZE = 320


@pytest.fixture(scope="module")
def trained() -> SubwordTokenizer:
    return train_tokenizer(CORPUS, SIZE)


@pytest.fixture(params=["bytes", "trained"])
def tokenizer(request: pytest.FixtureRequest, trained: SubwordTokenizer) -> Tokenizer:
    return trained if request.param == "trained" else ByteTokenizer()


def random_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of 0 to 30 characters of every plane of Unicode."""
    source = generator(seed)
    numbers = [torch.randint(0x110000, (int(torch.randint(31, (), generator=source)),), generator=source)]
    numbers += [torch.randint(0x300, (int(torch.randint(31, (), generator=source)),), generator=source)
                for _ in range(count - 1)]  # fmt: skip
    return ["".join(chr(n) for n in row.tolist() if not 0xD800 <= n < 0xE000) for row in numbers]


# Tokenizers -----------------------------------------------------------------------------------------------------


def test_a_text_comes_back_exactly(tokenizer: Tokenizer) -> None:
    for text in [*HARD, *CORPUS, *random_texts(200)]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert all(0 <= number < tokenizer.size for number in ids)
        assert not {tokenizer.pad, tokenizer.begin, tokenizer.end} & set(ids)


def test_special_ids_are_no_text(tokenizer: Tokenizer) -> None:
    specials = [tokenizer.begin, tokenizer.end, tokenizer.pad]
    assert len(set(specials)) == 3
    assert all(0 <= number < tokenizer.size for number in specials)
    inside, outside = tokenizer.encode("a dog"), tokenizer.encode(" barks")
    assert tokenizer.decode([specials[0], *inside, specials[1], *outside, *specials]) == "a dog barks"


def test_a_tokenizer_is_one_by_its_protocol(tokenizer: Tokenizer) -> None:
    assert isinstance(tokenizer, Tokenizer)


def test_a_part_of_a_character_is_shown_as_such(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("é")  # not in the corpus: its two bytes
    assert len(ids) == 2
    assert tokenizer.decode(ids[:1]) == "\ufffd"


def test_pieces_are_learned(trained: SubwordTokenizer) -> None:
    assert trained.size == SIZE
    assert (trained.pad, trained.begin, trained.end) == (0, 1, 2)
    learned = trained.encode("barking things")
    assert len(learned) < len("barking things") / 2
    assert len(train_tokenizer(CORPUS, 259).encode("barking things")) == len("barking things")


def test_the_first_pieces_are_the_most_frequent_pairs() -> None:
    """By hand: of aaab, aab, aab the pairs aa (4 times) and ab (3); then aa·b (twice), aa·a (once), ab (once)."""
    few = train_tokenizer(["aaab", "aab", "aab"], 261)
    assert [few.decode([number]) for number in (259, 260)] == ["aa", "aab"]
    assert few.encode("aab") == [260]
    assert few.encode("aaab") == [259, *few.encode("a"), *few.encode("b")]


def test_few_words_give_few_pieces() -> None:
    small = train_tokenizer(["ab"], 1_000)
    assert small.size == 260
    assert small.decode(small.encode("abba")) == "abba"


def test_the_same_texts_give_the_same_tokenizer(trained: SubwordTokenizer) -> None:
    for _ in range(5):  # the library's hash maps have other seeds each time
        assert train_tokenizer(iter(CORPUS), SIZE).definition == trained.definition
    again = train_tokenizer(CORPUS, SIZE)
    assert again == trained
    assert digest(again) == digest(trained) != digest(train_tokenizer(CORPUS, SIZE - 1))


def test_a_tokenizer_is_kept_as_a_file(tmp_path: Path, trained: SubwordTokenizer) -> None:
    path = trained.save(tmp_path / "run" / "tokenizer.json")
    for given in (path, str(path), path.parent):
        assert load_tokenizer(given) == trained
    assert [file.name for file in path.parent.iterdir()] == ["tokenizer.json"]
    copy = pickle.loads(pickle.dumps(trained))
    assert copy == trained
    for text in HARD:
        assert load_tokenizer(path).encode(text) == copy.encode(text) == trained.encode(text)


def test_a_pretrained_tokenizer_is_read_with_its_own_special_tokens(tmp_path: Path) -> None:
    import tokenizers

    bert = tokenizers.BertWordPieceTokenizer(
        {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "dog": 5, "##s": 6}
    )
    bert.enable_truncation(3)
    bert.enable_padding(length=9)
    bert.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(
        NetopsyError,
        match=r"tokenizer.json: tokenizer: expected the special tokens <pad>, <begin>, <end>; it has no <pad>, "
        r"<begin>, <end>, but .*\[CLS\].*; pass pad=, begin= and end= as it names them",
    ):
        load_tokenizer(tmp_path)
    read = load_tokenizer(tmp_path, pad="[PAD]", begin="[CLS]", end="[SEP]")
    assert (read.pad, read.begin, read.end, read.size) == (0, 2, 3, 7)
    assert read.encode("A dog dogs a dog") == [4, 5, 5, 6, 4, 5]  # neither cut, nor filled up, nor with [CLS]
    assert read.decode([2, 4, 5, 6, 3, 0]) == "a dogs"


def test_files_that_are_no_tokenizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NetopsyError, match=r"none.json: expected a tokenizer.json; it cannot be read"):
        load_tokenizer(tmp_path / "none.json")
    with pytest.raises(NetopsyError, match=r"tokenizer.json: expected a tokenizer.json; it cannot be read"):
        load_tokenizer(tmp_path)
    for content in (b"{}", b"no json", b"\xff\xfe"):
        (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(NetopsyError, match=r"tokenizer.json: .*expected .*it cannot be read"):
            load_tokenizer(tmp_path)


@pytest.mark.parametrize("size", [258, 0, -1])
def test_too_small_a_vocabulary_is_refused(size: int) -> None:
    with pytest.raises(NetopsyError, match=r"size \(3 special tokens, 256 bytes, and pieces\): .* >= 259; got"):
        train_tokenizer(CORPUS, size)


def test_a_missing_library_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: SubwordTokenizer
) -> None:
    path = trained.save(tmp_path / "tokenizer.json")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r'pip install "netopsy\[text\]"'):
        train_tokenizer(CORPUS, SIZE)
    with pytest.raises(ImportError, match=r'pip install "netopsy\[text\]"'):
        load_tokenizer(path)
    assert language_model_set(["a"], ByteTokenizer(), 2)[1].tolist() == [[97, 258]]


# Language modeling ----------------------------------------------------------------------------------------------


def kept(labels: Tensor) -> list[int]:
    return labels[labels != IGNORED].tolist()


@pytest.mark.parametrize("length", [1, 2, 7, 32, 10_000])
def test_every_token_is_a_label_once_when_packed(tokenizer: Tokenizer, length: int) -> None:
    texts = [*CORPUS, *HARD]
    inputs, labels = language_model_set(texts, tokenizer, length)
    stream = [number for text in texts for number in [*tokenizer.encode(text), tokenizer.end]]
    assert kept(labels) == stream
    assert inputs.dtype == labels.dtype == torch.int64
    assert inputs.shape == labels.shape == (-(-len(stream) // length), length)
    assert bool((labels[:-1] != IGNORED).all())
    filled = (labels[-1] != IGNORED).tolist()
    assert filled == sorted(filled, reverse=True)
    assert filled[0]  # no row is all padding


@pytest.mark.parametrize("length", [1, 2, 7, 32, 100])
def test_a_document_has_a_row_of_its_own_when_not_packed(tokenizer: Tokenizer, length: int) -> None:
    texts = [*CORPUS, *HARD]
    inputs, labels = language_model_set(texts, tokenizer, length, packed=False)
    assert inputs.shape == labels.shape == (len(texts), length)
    for text, row in zip(texts, labels, strict=True):
        assert kept(row) == [*tokenizer.encode(text), tokenizer.end][:length]


@pytest.mark.parametrize("packed", [True, False])
def test_inputs_are_the_labels_one_later(tokenizer: Tokenizer, packed: bool) -> None:
    inputs, labels = language_model_set([*CORPUS, *HARD], tokenizer, 19, packed=packed)
    for read, told in zip(inputs.tolist(), labels.tolist(), strict=True):
        expected = [tokenizer.begin] + [tokenizer.pad if number == IGNORED else number for number in told[:-1]]
        assert read == expected


def test_packed_and_padded_rows_hold_the_same_tokens(tokenizer: Tokenizer) -> None:
    packed, padded = (language_model_set(CORPUS, tokenizer, 200, packed=packed)[1] for packed in (True, False))
    assert kept(packed) == kept(padded)
    assert tokenizer.decode(kept(packed)) == "".join(CORPUS)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("build", [language_model_set, lambda t, k, n: classification_set(t, torch.zeros(1), k, n)])
def test_texts_of_another_form_are_refused(build) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(NetopsyError, match=r"texts: expected several texts; got one of 3 characters; pass it in a"):
        build("abc", ByteTokenizer(), 4)
    with pytest.raises(NetopsyError, match="texts: expected at least one text; got none"):
        build([], ByteTokenizer(), 4)
    with pytest.raises(NetopsyError, match=r"length: expected an integer >= \d; got 0"):
        build(["abc"], ByteTokenizer(), 0)


# Classification -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [3, 12, 80])
def test_texts_to_classify_stand_between_begin_and_end(tokenizer: Tokenizer, length: int) -> None:
    texts, labels = [*CORPUS, *HARD], torch.arange(len(CORPUS) + len(HARD))
    batch = classification_set(texts, labels, tokenizer, length)
    assert list(batch) == ["input_ids", "attention_mask", "labels"]
    assert batch["labels"].equal(labels)
    assert batch["labels"] is not labels
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (len(texts), length)
    for text, ids, mask in zip(texts, batch["input_ids"].tolist(), batch["attention_mask"].tolist(), strict=True):
        row = [tokenizer.begin, *tokenizer.encode(text)[: length - 2], tokenizer.end]
        assert ids == row + [tokenizer.pad] * (length - len(row))
        assert mask == [1] * len(row) + [0] * (length - len(row))


def test_a_padded_batch_gives_what_its_texts_give_alone() -> None:
    """A Hugging Face classifier told of the padding by the mask reads a text as if there were none."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=ByteTokenizer.size, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=8, max_position_embeddings=64, num_labels=3,
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    labels = torch.tensor([0, 2])
    batch = classification_set(["a dog", "barks"], labels, ByteTokenizer(), 40)
    with torch.no_grad():
        together = model(**batch).logits
        for row, text in enumerate(("a dog", "barks")):
            alone = classification_set([text], labels[row : row + 1], ByteTokenizer(), len(text) + 2)
            assert bool(alone["attention_mask"].all())
            torch.testing.assert_close(together[row : row + 1], model(**alone).logits, rtol=1e-5, atol=1e-6)


def test_labels_that_do_not_fit_are_refused() -> None:
    message = r"labels: expected one int64 label for each of the 2 texts; got torch.int64 \(3,\)"
    with pytest.raises(NetopsyError, match=message):
        classification_set(["a", "b"], torch.tensor([0, 1, 2]), ByteTokenizer(), 4)


# The data set ---------------------------------------------------------------------------------------------------


def data_set(**changes: object) -> TextDataset:
    fields = {
        "name": "toy",
        "train": (("a", "b"), torch.tensor([0, 1])),
        "test": (("c",), torch.tensor([1])),
        "class_names": ("x", "y"),
    }
    return TextDataset(**(fields | changes))  # type: ignore[arg-type]


def test_a_fingerprint_tells_texts_labels_and_splits_apart() -> None:
    whole = data_set()
    assert whole.classes == 2
    assert data_set(name="other").fingerprint == whole.fingerprint
    others = [
        data_set(train=(("ab", ""), torch.tensor([0, 1]))),
        data_set(train=(("a", "b"), torch.tensor([1, 0]))),
        data_set(train=(("a",), torch.tensor([0])), test=(("b", "c"), torch.tensor([1, 1]))),
        data_set(class_names=("x", "z")),
    ]
    assert len({data.fingerprint for data in [whole, *others]}) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test": ((), torch.zeros(0, dtype=torch.int64))}, "toy, test split: expected at least one text; got none"),
        ({"test": (("c",), torch.tensor([0, 1]))}, r"test split: expected one int64 label .*the 1 texts; .*\(2,\)"),
        ({"test": (("c",), torch.tensor([0.0]))}, r"test split: expected one int64 label .*; got torch.float32"),
        ({"train": (("a",), torch.tensor([2]))}, r"train split: expected labels in \[0, 2\).*; got 2 to 2"),
        ({"train": (("a",), torch.tensor([-1]))}, r"train split: expected labels in \[0, 2\).*; got -1 to -1"),
    ],
)
def test_data_sets_of_another_form_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(NetopsyError, match=message):
        data_set(**changes)
