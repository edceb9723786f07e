"""WordNet's glosses: small files in the published format, and the real ones where they are installed."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from netopsy._checks import NetopsyError
from netopsy.data import wordnet
from netopsy.data.text import TextDataset
from netopsy.data.wordnet import CLASSES, WORDNET, WordnetSource, glosses, load_glosses

LICENSE = "  1 This software and database is being provided to you | under the following license.  \n"
NOUN = '00001740 03 n 01 entity 0 001 ~ 00001930 n 0000 | that which exists; "a | b"  \n'
ANIMAL = "00001930 05 n 01 dog 0 000 | a barking thing  \n"
VERB = "00001740 29 v 01 breathe 0 001 * 00005041 v 0000 02 + 02 00 + 08 00 | draw air  \n"
ADJECTIVE = "00001740 00 a 01 able 0 000 | having means  \n"
PARTICIPLE = "00001930 44 a 01 driven 0 000 | a barking thing  \n"
ADVERB = "00001740 02 r 01 a_cappella 0 000 | without music\n"
FILES = {
    "data.noun": LICENSE + NOUN + ANIMAL,
    "data.verb": LICENSE + VERB,
    "data.adj": LICENSE + ADJECTIVE + PARTICIPLE,
    "data.adv": LICENSE + ADVERB,
}
ROWS = Counter(
    {
        ('that which exists; "a | b"', "noun.Tops"): 1,
        ("a barking thing", "noun.animal"): 1,
        ("draw air", "verb.body"): 1,
        ("having means", "adj.all"): 1,
        ("a barking thing", "adj.ppl"): 1,
        ("without music", "adv.all"): 1,
    }
)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Path:
        raise AssertionError("a download was tried")

    monkeypatch.setattr(wordnet, "fetch", refuse)


def packed(files: dict[str, str], inside: str = "toy/dict") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"{inside}/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return out.getvalue()


def toy(files: dict[str, str], system: Path, archive: bytes = b"") -> WordnetSource:
    return WordnetSource(
        name="toy",
        url="http://nowhere.invalid/toy.tar.gz",
        sha256=hashlib.sha256(archive).hexdigest(),
        inside="toy/dict",
        files={name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()},
        system=system,
    )


def write(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def rows(data: TextDataset) -> Counter[tuple[str, str]]:
    return Counter(
        (text, data.class_names[label])
        for texts, labels in (data.train, data.test)
        for text, label in zip(texts, labels.tolist(), strict=True)
    )


def load(source: WordnetSource, folder: Path, *, download: bool = False, seed: int = 0) -> TextDataset:
    return load_glosses(source, folder, download, 0.4, seed)


def test_there_are_45_classes_in_the_order_of_the_lexicographer_files() -> None:
    assert len(CLASSES) == len(set(CLASSES)) == 45
    places = {0: "adj.all", 2: "adv.all", 3: "noun.Tops", 5: "noun.animal", 28: "noun.time", 29: "verb.body"}
    assert {number: CLASSES[number] for number in places} == places
    assert CLASSES[43:] == ("verb.weather", "adj.ppl")


@pytest.mark.skipif(
    not Path("/usr/share/man/man5/lexnames.5WN.gz").is_file(), reason="wordnet-base's manual is absent"
)
def test_the_classes_are_those_of_the_manual() -> None:
    page = subprocess.run(
        ["zcat", "/usr/share/man/man5/lexnames.5WN.gz"], check=True, capture_output=True, text=True
    ).stdout
    entries = [line.split() for line in page.splitlines() if line[:2].isdecimal()]
    assert [(number, name) for number, name, *_ in entries] == [
        (f"{number:02}", name) for number, name in enumerate(CLASSES)
    ]


@pytest.mark.usefixtures("no_network")
def test_glosses_are_read_as_written(tmp_path: Path) -> None:
    data = load(toy(FILES, tmp_path / "system"), write(tmp_path / "given", FILES))
    assert rows(data) == ROWS
    assert (data.name, data.classes, data.class_names) == ("toy", 45, CLASSES)


@pytest.mark.usefixtures("no_network")
def test_files_of_the_system_are_found_after_those_of_the_folder(tmp_path: Path) -> None:
    archive = packed(FILES)
    source, given = toy(FILES, write(tmp_path / "system", FILES), archive), tmp_path / "given"
    assert rows(load(source, given)) == ROWS
    given.mkdir()
    (given / "toy.tar.gz").write_bytes(b"spoiled")
    with pytest.raises(NetopsyError, match=r"toy.tar.gz: expected content with SHA-256 .* damaged or is another"):
        load(source, given)
    (given / "toy.tar.gz").write_bytes(archive)
    assert rows(load(source, given)) == ROWS
    for name, text in (FILES | {"data.adv": LICENSE + ADVERB.replace("out", "")}).items():
        (given / name).write_text(text)
    with pytest.raises(NetopsyError, match=r"given.data.adv: expected content with SHA-256"):
        load(source, given)


def test_the_archive_is_downloaded_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, asked = packed(FILES), []

    def fetch(url: str, known_hash: str, folder: Path) -> Path:
        asked.append((url, known_hash, folder))
        folder.mkdir()
        (folder / "toy.tar.gz").write_bytes(archive)
        return folder / "toy.tar.gz"

    monkeypatch.setattr(wordnet, "fetch", fetch)
    source = toy(FILES, tmp_path / "system", archive)
    first = load(source, tmp_path / "home", download=True)
    assert asked == [(source.url, f"sha256:{source.sha256}", tmp_path / "home")]
    again = load(source, tmp_path / "home", download=False)
    assert rows(first) == ROWS
    assert first.fingerprint == again.fingerprint


@pytest.mark.usefixtures("no_network")
def test_missing_files_are_named_with_the_remedies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wordnet, "WORDNET", replace(WORDNET, system=tmp_path / "system"))
    message = (
        r"wordnet-glosses: expected data.noun, data.verb, data.adj, data.adv in .*given or .*system, or "
        r"WordNet-3.0.tar.gz in .*given; they are in none; install the Debian package \(apt-get install "
        r"wordnet-base\), pass the folder that they lie in as folder=, or download=True"
    )
    with pytest.raises(NetopsyError, match=message):
        glosses(tmp_path / "given", download=False)
    write(tmp_path / "given", {"data.noun": "only this one"})
    with pytest.raises(NetopsyError, match=message):
        glosses(tmp_path / "given", download=False)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("00001740 03 n 01 entity 0 000\n", r"data.noun, line 2: .*a gloss after ' \| '; got '00001740 03 n"),
        ("00001740 03 n 01 entity 0 000 |  \n", "data.noun, line 2: expected an offset"),
        ("00001740 45 n 01 entity 0 000 | what is\n", r"the number of a lexicographer file \(00 to 44\)"),
        ("00001740 xx n 01 entity 0 000 | what is\n", "got '00001740 xx n 01 entity 0 000 | what is'"),
    ],
)
def test_lines_of_another_form_are_refused(tmp_path: Path, line: str, message: str) -> None:
    files = FILES | {"data.noun": LICENSE + line}
    with pytest.raises(NetopsyError, match=message):
        load(toy(files, tmp_path), write(tmp_path / "given", files))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("archive", [b"no archive", packed(FILES, "other"), packed(FILES)[:-300]])
def test_an_archive_of_another_form_is_refused(tmp_path: Path, archive: bytes) -> None:
    (tmp_path / "toy.tar.gz").write_bytes(archive)
    with pytest.raises(NetopsyError, match=r"toy.tar.gz: expected a gzip tar archive with toy/dict/ in it"):
        load(toy(FILES, tmp_path / "system", archive), tmp_path)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_that_empties_a_split_is_refused(share: float) -> None:
    with pytest.raises(NetopsyError, match=r"test_share: expected a number in \(0, 1\)"):
        glosses(test_share=share)


def test_a_split_of_too_few_texts_is_refused(tmp_path: Path) -> None:
    source = toy(FILES, write(tmp_path / "system", FILES))
    with pytest.raises(NetopsyError, match="toy, test split: expected at least one text; got none"):
        load_glosses(source, tmp_path, False, 0.01, 0)


def test_the_split_is_seeded_and_shares_no_text(tmp_path: Path) -> None:
    source = toy(FILES, write(tmp_path / "system", FILES))
    sets = [load(source, tmp_path, seed=seed) for seed in range(30)]
    for data in sets:
        assert rows(data) == ROWS
        assert not set(data.train[0]) & set(data.test[0])
        assert len(set(data.test[0])) == 2  # 0.4 of the 5 different texts
    assert load(source, tmp_path, seed=3).fingerprint == sets[3].fingerprint
    assert len({data.fingerprint for data in sets}) > 10
    assert 0 < sum("a barking thing" in data.test[0] for data in sets) < 30  # the text that occurs twice


@pytest.mark.skipif(not WORDNET.system.is_dir(), reason="wordnet-base is not installed")
@pytest.mark.usefixtures("no_network")
def test_the_installed_glosses_are_the_published_ones(tmp_path: Path) -> None:
    data = glosses(tmp_path, download=False)
    texts, labels = data.train[0] + data.test[0], torch.cat([data.train[1], data.test[1]])
    assert (len(data.train[0]), len(data.test[0])) == (105_733, 11_926)
    assert (len(texts), sum(map(len, texts))) == (117_659, 8_845_632)
    counts = Counter(texts)
    assert (len(counts), sum(count > 1 for count in counts.values())) == (117_033, 376)
    assert counts.most_common(1) == [("a variety of aster", 23)]
    assert not set(data.train[0]) & set(data.test[0])
    classes = dict(zip(CLASSES, labels.bincount().tolist(), strict=True))
    assert (classes["adj.all"], classes["noun.animal"], classes["verb.weather"]) == (14_435, 7_509, 81)
    # wnstats(7WN): synsets by part of speech.
    parts = Counter(CLASSES[label].partition(".")[0] for label in labels.tolist())
    assert parts == {"noun": 82_115, "verb": 13_767, "adj": 18_156, "adv": 3_621}
    several = Counter(text for text, _ in set(zip(texts, labels.tolist(), strict=True)))
    assert sum(count > 1 for count in several.values()) == 9
    place = texts.index("that which is perceived or known or inferred to have its own distinct existence "
                        "(living or nonliving)")  # fmt: skip
    assert CLASSES[labels[place]] == "noun.Tops"


def test_the_hashes_are_whole() -> None:
    hashes = [WORDNET.sha256, *WORDNET.files.values()]
    assert len(set(hashes)) == 5
    assert all(len(digest) == 64 for digest in hashes)
