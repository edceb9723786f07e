"""The glosses of WordNet 3.0: short English definitions, each in one of 45 classes."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from netopsy._checks import NetopsyError, inside
from netopsy._random import derive, generator
from netopsy.data._sources import cache, check_hash, fetch
from netopsy.data.text import TextDataset

NOUNS = (
    "Tops", "act", "animal", "artifact", "attribute", "body", "cognition", "communication", "event", "feeling",
    "food", "group", "location", "motive", "object", "person", "phenomenon", "plant", "possession", "process",
    "quantity", "relation", "shape", "state", "substance", "time",
)  # fmt: skip
VERBS = (
    "body", "change", "cognition", "communication", "competition", "consumption", "contact", "creation", "emotion",
    "motion", "perception", "possession", "social", "stative", "weather",
)  # fmt: skip
CLASSES = (
    "adj.all",
    "adj.pert",
    "adv.all",
    *(f"noun.{name}" for name in NOUNS),
    *(f"verb.{name}" for name in VERBS),
    "adj.ppl",
)
"""The classes by label, which are the lexicographer files by number; see lexnames(5WN)."""


@dataclass(frozen=True, kw_only=True)
class WordnetSource:
    """Where the glosses come from.

    Attributes:
        name: of the data set.
        url: of the archive of a release.
        sha256: of the archive.
        inside: folder in the archive that has the files.
        files: SHA-256 of each file, in their order, as the Debian package installs them.
        system: where the package installs them.
    """

    name: str
    url: str
    sha256: str
    inside: str
    files: Mapping[str, str]
    system: Path


WORDNET = WordnetSource(
    name="wordnet-glosses",
    url="https://wordnetcode.princeton.edu/3.0/WordNet-3.0.tar.gz",
    sha256="640db279c949a88f61f851dd54ebbb22d003f8b90b85267042ef85a3781d3a52",
    inside="WordNet-3.0/dict",
    files={
        "data.noun": "fea17d2f9656611334eac790e5d69e47645fa180c4aa481fb4cd9b3520754ca2",
        "data.verb": "adcf43e35b581e8036d8b5a52d63d9cd3d3b4870b2720d3c03c799df44777bc2",
        "data.adj": "c89120dfc1f046ddff4a631bf9b7e9fa1a36b5e86565a23bf82dbe14f30b88a7",
        "data.adv": "444a63bf3955080ab7524f5079cfc07ff9bc682cb98bdb1db73b0fb9829f1139",
    },
    system=Path("/usr/share/wordnet"),
)


def glosses(
    folder: str | Path | None = None, download: bool = True, *, test_share: float = 0.1, seed: int = 0
) -> TextDataset:
    """The 117,659 glosses of WordNet 3.0 (Miller 1995), a definition and often examples, in 45 classes.

    A gloss' class is the lexicographer file of its synset, such as noun.animal or verb.motion. 626 glosses are
    another's text again (376 texts occur more than once, "a variety of aster" 23 times; 9 of them in several
    classes): the 117,033 different texts are split, so that no text is in both splits.

    The four files are looked for in `folder` (or, without one, in netopsy's cache), as is Princeton's archive
    `WordNet-3.0.tar.gz`, then where the Debian package `wordnet-base` puts them; the archive (12 MB) is downloaded
    last. Debian builds the files again from the same sources, with one space added in an adjective's gloss: the two
    have different hashes, and that one text differs.

    Args:
        folder: where the files or the archive are, or the archive is downloaded to; None is the user's cache.
        download: False never uses the network.
        test_share: share of the different texts that the test split gets, in (0, 1).
        seed: of the order of the glosses, and so of the split.

    Returns:
        both splits in random order: their first texts are a random sample.

    Raises:
        NetopsyError: a file is missing, damaged, or not the published one.
    """
    return load_glosses(WORDNET, folder, download, test_share, seed)


def load_glosses(
    source: WordnetSource, folder: str | Path | None, download: bool, test_share: float, seed: int
) -> TextDataset:
    """Find or fetch the files of a source, check them, read them and split the glosses."""
    inside("test_share", test_share, 0.0, 1.0, open_low=True, open_high=True)
    home = cache(source.name) if folder is None else Path(folder)
    contents = _contents(source, _locate(source, home, download))
    labels, texts = zip(*(row for name, content in contents.items() for row in _read(name, content)), strict=True)
    order = torch.randperm(len(texts), generator=generator(derive(seed, "glosses"))).tolist()
    different = list(dict.fromkeys(texts[row] for row in order))
    held_out = set(different[: round(test_share * len(different))])

    def split(test: bool) -> tuple[tuple[str, ...], torch.Tensor]:
        rows = [row for row in order if (texts[row] in held_out) == test]
        return tuple(texts[row] for row in rows), torch.tensor([labels[row] for row in rows], dtype=torch.int64)

    return TextDataset(name=source.name, train=split(False), test=split(True), class_names=CLASSES)


def _locate(source: WordnetSource, home: Path, download: bool) -> Path:
    """A folder that has the files, or the archive."""
    archive = home / source.url.rsplit("/", 1)[-1]
    if _has_files(source, home):
        return home
    if archive.is_file():
        return archive
    if _has_files(source, source.system):
        return source.system
    if download:
        return fetch(source.url, f"sha256:{source.sha256}", home)
    raise NetopsyError(
        f"{source.name}: expected {', '.join(source.files)} in {home} or {source.system}, or {archive.name} in "
        f"{home}; they are in none; install the Debian package (apt-get install wordnet-base), pass the folder "
        "that they lie in as folder=, or download=True"
    )


def _has_files(source: WordnetSource, folder: Path) -> bool:
    return all((folder / name).is_file() for name in source.files)


def _contents(source: WordnetSource, place: Path) -> dict[str, bytes]:
    """What the files of a folder or an archive hold, checked against the hashes."""
    if place.is_dir():
        contents = {name: (place / name).read_bytes() for name in source.files}
        for name, sha256 in source.files.items():
            check_hash(place / name, contents[name], sha256)
        return contents
    packed = place.read_bytes()
    check_hash(place, packed, source.sha256)
    try:
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as archive:
            members = [archive.extractfile(f"{source.inside}/{name}") for name in source.files]
            return {name: member.read() for name, member in zip(source.files, members, strict=True) if member}
    except (tarfile.TarError, KeyError, OSError, EOFError) as error:
        raise NetopsyError(
            f"{place}: expected a gzip tar archive with {source.inside}/ in it; it cannot be read ({error})"
        ) from error


def _read(where: str, content: bytes) -> Iterator[tuple[int, str]]:
    """Label and gloss of each synset of a file (wndb(5WN)).

    A line is `offset lex_filenum ss_type words… pointers… | gloss`; the lines of the license begin with two spaces.
    """
    for number, line in enumerate(content.decode("latin-1").split("\n"), 1):
        if not line or line.startswith("  "):
            continue
        head, _, gloss = line.partition(" | ")
        label = head[9:11]
        if not gloss.strip() or not label.isdecimal() or int(label) >= len(CLASSES):
            raise NetopsyError(
                f"{where}, line {number}: expected an offset, the number of a lexicographer file (00 to "
                f"{len(CLASSES) - 1}) and a gloss after ' | '; got {line[:40]!r}"
            )
        yield int(label), gloss.strip()
