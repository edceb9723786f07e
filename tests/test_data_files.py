"""Data sets read from files: small files in the published formats, and the real ones where they are installed."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import struct
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from netopsy._checks import NetopsyError
from netopsy.data import cifar, idx
from netopsy.data.cifar import CIFAR10, CIFAR100, CifarSource, cifar10, cifar100, load_cifar
from netopsy.data.dataset import standardize
from netopsy.data.digits import digits
from netopsy.data.folders import image_folder
from netopsy.data.idx import FASHION_MNIST, MNIST, IdxFile, IdxSource, fashion_mnist, load_idx, mnist

RANDOM = np.random.default_rng(0)
IMAGES = {"train": RANDOM.integers(0, 256, (6, 5, 4), np.uint8), "t10k": RANDOM.integers(0, 256, (3, 5, 4), np.uint8)}
LABELS = {"train": np.array([0, 1, 2, 2, 1, 0], np.uint8), "t10k": np.array([2, 0, 1], np.uint8)}


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Path:
        raise AssertionError("a download was tried")

    monkeypatch.setattr(idx, "fetch", refuse)
    monkeypatch.setattr(cifar, "fetch", refuse)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder that is served on this machine only, and its address."""
    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


# IDX ------------------------------------------------------------------------------------------------------------


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def idx_contents() -> dict[str, bytes]:
    """The four files, in the order of an `IdxSource`."""
    return {
        f"{part}-{kind}-ubyte": idx_bytes(arrays[part])
        for part in ("train", "t10k")
        for kind, arrays in (("images-idx3", IMAGES), ("labels-idx1", LABELS))
    }


def idx_source(
    contents: dict[str, bytes], url: str = "http://nowhere.invalid", system: Path | None = None
) -> IdxSource:
    files = [
        IdxFile(
            name=name,
            md5=hashlib.md5(gzip.compress(content, mtime=0)).hexdigest(),
            sha256=hashlib.sha256(content).hexdigest(),
        )
        for name, content in contents.items()
    ]
    return IdxSource(
        name="toy",
        url=url,
        classes=3,
        files=(files[0], files[1], files[2], files[3]),
        system=() if system is None else (system,),
        hint="install the package, ",
    )


def write_idx(folder: Path, contents: dict[str, bytes], *, compressed: bool = True) -> None:
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
        else:
            (folder / name).write_bytes(content)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("compressed", [True, False])
def test_idx_files_are_read_as_written(tmp_path: Path, compressed: bool) -> None:
    write_idx(tmp_path / "given", idx_contents(), compressed=compressed)
    data = load_idx(idx_source(idx_contents()), str(tmp_path / "given"), download=True)
    for split, part in ((data.train, "train"), (data.test, "t10k")):
        assert split[0].shape == (len(IMAGES[part]), 1, 5, 4)
        np.testing.assert_array_equal((split[0] * 255).round().numpy()[:, 0].astype(int), IMAGES[part])
        assert split[1].tolist() == LABELS[part].tolist()
    assert (data.name, data.classes, data.mean, data.std) == ("toy", 3, (0.0,), (1.0,))
    assert float(data.train[0].max()) <= 1.0


@pytest.mark.usefixtures("no_network")
def test_idx_files_of_the_system_are_found_after_those_of_the_folder(tmp_path: Path) -> None:
    system, given = tmp_path / "system", tmp_path / "given"
    write_idx(system, idx_contents())
    source = idx_source(idx_contents(), system=system)
    assert load_idx(source, given, download=False).train[1].tolist() == LABELS["train"].tolist()
    write_idx(given, {"train-labels-idx1-ubyte": b"spoiled"})
    with pytest.raises(NetopsyError, match=r"given.train-labels-idx1-ubyte.gz: expected an IDX file"):
        load_idx(source, given, download=False)


@pytest.mark.usefixtures("no_network")
def test_missing_idx_files_are_named_with_the_remedies(tmp_path: Path) -> None:
    source = idx_source(idx_contents(), system=tmp_path / "system")
    message = (
        r"toy: expected train-images-idx3-ubyte.gz in .*given or .*system; it is in none; install the package, "
        "pass the folder that it lies in as folder=, or download=True"
    )
    with pytest.raises(NetopsyError, match=message):
        load_idx(source, tmp_path / "given", download=False)


@pytest.mark.usefixtures("no_network")
def test_the_public_loaders_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idx, "FASHION_MNIST", replace(FASHION_MNIST, system=(tmp_path,)))
    with pytest.raises(NetopsyError, match=r"fashion-mnist: .*apt-get install dataset-fashion-mnist"):
        fashion_mnist(tmp_path, download=False)
    with pytest.raises(NetopsyError, match=r"^mnist: expected train-images-idx3-ubyte.gz"):
        mnist(tmp_path, download=False)


def spoil(content: bytes, how: str) -> bytes:
    return {
        "magic": b"\x00\x00\x0d" + content[3:],
        "empty": b"",
        "short": content[:-1],
        "long": content + b"\x00",
        "value": content[:-1] + bytes([content[-1] ^ 1]),
    }[how]


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("magic", "expected an IDX file of unsigned bytes .* it starts with 00 00 0d 03; delete it"),
        ("empty", "expected an IDX file of unsigned bytes .* it starts with nothing; delete it"),
        ("short", r"expected 136 bytes for an IDX array of shape \(6, 5, 4\); got 135: .*truncated"),
        ("long", r"expected 136 bytes for an IDX array of shape \(6, 5, 4\); got 137"),
        ("value", "expected content with SHA-256 .*; got .*: the file is damaged or is another version; delete it"),
    ],
)
def test_damaged_idx_content_is_refused(tmp_path: Path, how: str, message: str) -> None:
    contents = idx_contents()
    bad = contents | {"train-images-idx3-ubyte": spoil(contents["train-images-idx3-ubyte"], how)}
    write_idx(tmp_path, bad)
    with pytest.raises(NetopsyError, match=f"train-images-idx3-ubyte.gz: {message}"):
        load_idx(idx_source(contents), tmp_path, download=True)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("kept", [0, 5, 40, -4])
def test_damaged_compression_is_refused(tmp_path: Path, kept: int) -> None:
    write_idx(tmp_path, idx_contents())
    file = tmp_path / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(NetopsyError, match=r"t10k-images-idx3-ubyte.gz: expected a.* delete it and try again"):
        load_idx(idx_source(idx_contents()), tmp_path, download=True)


@pytest.mark.usefixtures("no_network")
def test_labels_where_images_should_be_are_refused(tmp_path: Path) -> None:
    contents = idx_contents()
    contents["train-images-idx3-ubyte"] = contents["train-labels-idx1-ubyte"]
    write_idx(tmp_path, contents)
    with pytest.raises(NetopsyError, match=r"train-images-idx3-ubyte.gz: expected an IDX array of 3 axes; got 1"):
        load_idx(idx_source(contents), tmp_path, download=True)


def test_idx_files_are_downloaded_once(tmp_path: Path, server: tuple[Path, str]) -> None:
    served, url = server
    write_idx(served, idx_contents())
    source, home = idx_source(idx_contents(), url), tmp_path / "home"
    first = load_idx(source, home, download=True)
    for file in served.iterdir():
        file.unlink()
    again = load_idx(source, home, download=False)
    assert first.fingerprint == again.fingerprint
    assert sorted(file.name for file in home.iterdir()) == sorted(f"{name}.gz" for name in idx_contents())


def test_without_a_folder_files_go_to_the_cache(
    tmp_path: Path, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served, url = server
    write_idx(served, idx_contents())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    load_idx(idx_source(idx_contents(), url), None, download=True)
    assert (tmp_path / "cache" / "netopsy" / "toy" / "train-images-idx3-ubyte.gz").is_file()


def test_a_download_with_another_hash_is_not_kept(tmp_path: Path, server: tuple[Path, str]) -> None:
    served, url = server
    write_idx(served, idx_contents() | {"train-images-idx3-ubyte": b"an error page"})
    home = tmp_path / "home"
    with pytest.raises(
        NetopsyError, match=r"train-images-idx3-ubyte.gz: cannot be downloaded from .* pass the folder"
    ):
        load_idx(idx_source(idx_contents(), url), home, download=True)
    assert not (home / "train-images-idx3-ubyte.gz").exists()


def test_a_download_that_fails_says_so(tmp_path: Path, server: tuple[Path, str]) -> None:
    with pytest.raises(NetopsyError, match=r"cannot be downloaded from http://127.0.0.1:.*404"):
        load_idx(idx_source(idx_contents(), server[1]), tmp_path / "home", download=True)


@pytest.mark.skipif(not FASHION_MNIST.system[0].is_dir(), reason="dataset-fashion-mnist is not installed")
@pytest.mark.usefixtures("no_network")
def test_the_installed_fashion_mnist_is_the_published_one(tmp_path: Path) -> None:
    data = fashion_mnist(tmp_path, download=False)
    assert data.train[0].shape == (60_000, 1, 28, 28)
    assert data.test[0].shape == (10_000, 1, 28, 28)
    assert data.train[1].bincount().tolist() == [6_000] * 10
    assert data.test[1].bincount().tolist() == [1_000] * 10
    assert data.train[1][:5].tolist() == [9, 0, 0, 3, 0]
    got = standardize(data)
    assert got.mean == pytest.approx((0.2860,), abs=5e-5)
    assert got.std == pytest.approx((0.3530,), abs=5e-5)


def test_the_two_idx_sources_differ_in_every_hash() -> None:
    files = [*FASHION_MNIST.files, *MNIST.files]
    assert len({file.md5 for file in files}) == len({file.sha256 for file in files}) == 8
    assert all(len(file.md5) == 32 and len(file.sha256) == 64 for file in files)


# CIFAR ----------------------------------------------------------------------------------------------------------


def cifar_archive(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def cifar_record(label: bytes, image: np.ndarray) -> bytes:
    return label + image.tobytes()


CIFAR_IMAGES = RANDOM.integers(0, 256, (6, 3, 32, 32), np.uint8)
MEMBERS = {
    "toy/one.bin": b"".join(cifar_record(bytes([9, label]), CIFAR_IMAGES[label]) for label in (0, 1)),
    "toy/two.bin": b"".join(cifar_record(bytes([9, label]), CIFAR_IMAGES[label]) for label in (2, 3)),
    "toy/test.bin": b"".join(cifar_record(bytes([9, label]), CIFAR_IMAGES[4 + label]) for label in (1, 0)),
    "toy/readme.html": b"...",
}


def cifar_source(archive: bytes, url: str = "http://nowhere.invalid") -> CifarSource:
    return CifarSource(
        name="toy",
        url=f"{url}/toy-binary.tar.gz",
        sha256=hashlib.sha256(archive).hexdigest(),
        train=("toy/one.bin", "toy/two.bin"),
        test=("toy/test.bin",),
        label_bytes=2,
        classes=4,
    )


@pytest.mark.usefixtures("no_network")
def test_cifar_records_are_read_as_written(tmp_path: Path) -> None:
    archive = cifar_archive(MEMBERS)
    (tmp_path / "toy-binary.tar.gz").write_bytes(archive)
    data = load_cifar(cifar_source(archive), tmp_path, download=False)
    assert data.train[1].tolist() == [0, 1, 2, 3]  # the last label byte, in the order of the members
    assert data.test[1].tolist() == [1, 0]
    np.testing.assert_array_equal((data.train[0] * 255).round().numpy().astype(int), CIFAR_IMAGES[:4])
    np.testing.assert_array_equal((data.test[0] * 255).round().numpy().astype(int), CIFAR_IMAGES[[5, 4]])


@pytest.mark.usefixtures("no_network")
def test_cifar_10_has_one_label_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = cifar_record(bytes([7]), CIFAR_IMAGES[0])
    archive = cifar_archive(dict.fromkeys((*CIFAR10.train, *CIFAR10.test), record))
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(archive)
    monkeypatch.setattr(cifar, "CIFAR10", replace(CIFAR10, sha256=hashlib.sha256(archive).hexdigest()))
    data = cifar10(tmp_path)
    assert (data.name, data.classes, data.train[1].tolist(), data.test[1].tolist()) == ("cifar10", 10, [7] * 5, [7])


@pytest.mark.usefixtures("no_network")
def test_cifar_100_has_the_fine_label_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = cifar_record(bytes([7, 93]), CIFAR_IMAGES[0])
    archive = cifar_archive(dict.fromkeys((*CIFAR100.train, *CIFAR100.test), record))
    (tmp_path / "cifar-100-binary.tar.gz").write_bytes(archive)
    monkeypatch.setattr(cifar, "CIFAR100", replace(CIFAR100, sha256=hashlib.sha256(archive).hexdigest()))
    data = cifar100(tmp_path)
    assert (data.name, data.classes, data.train[1].tolist(), data.test[1].tolist()) == ("cifar100", 100, [93], [93])


@pytest.mark.usefixtures("no_network")
def test_a_missing_cifar_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        NetopsyError, match=r"cifar10: expected cifar-10-binary.tar.gz \(the binary version\) in .*fold"
    ):
        cifar10(tmp_path, download=False)
    with pytest.raises(NetopsyError, match=r"cifar100: expected cifar-100-binary.tar.gz .*or pass download=True"):
        cifar100(tmp_path, download=False)


@pytest.mark.usefixtures("no_network")
def test_another_cifar_archive_is_refused(tmp_path: Path) -> None:
    archive = cifar_archive(MEMBERS)
    (tmp_path / "toy-binary.tar.gz").write_bytes(archive[:-1])
    with pytest.raises(NetopsyError, match=r"toy-binary.tar.gz: expected content with SHA-256"):
        load_cifar(cifar_source(archive), tmp_path, download=True)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (cifar_archive(MEMBERS)[:200], "expected a gzip tar archive; it cannot be read"),
        (b"no archive", "expected a gzip tar archive; it cannot be read"),
        (
            cifar_archive({"toy/one.bin": MEMBERS["toy/one.bin"]}),
            "expected the file toy/two.bin in it; it has none; get",
        ),
        (
            cifar_archive(MEMBERS | {"toy/two.bin": b"12"}),
            "toy/two.bin to hold records of 3074 bytes; it has 2 bytes",
        ),
        (
            cifar_archive(MEMBERS | {"toy/test.bin": b""}),
            "toy/test.bin to hold records of 3074 bytes; it has 0 bytes",
        ),
    ],
)
def test_an_archive_with_wrong_content_is_refused(tmp_path: Path, archive: bytes, message: str) -> None:
    (tmp_path / "toy-binary.tar.gz").write_bytes(archive)
    with pytest.raises(NetopsyError, match=message):
        load_cifar(cifar_source(archive), tmp_path, download=True)


def test_a_cifar_archive_is_downloaded_once(tmp_path: Path, server: tuple[Path, str]) -> None:
    served, url = server
    archive = cifar_archive(MEMBERS)
    (served / "toy-binary.tar.gz").write_bytes(archive)
    first = load_cifar(cifar_source(archive, url), tmp_path / "home", download=True)
    (served / "toy-binary.tar.gz").unlink()
    assert load_cifar(cifar_source(archive, url), tmp_path / "home", download=False).fingerprint == first.fingerprint


# Digits ---------------------------------------------------------------------------------------------------------


def test_digits_are_scikit_learns_in_a_stratified_split() -> None:
    from sklearn.datasets import load_digits

    data, bunch = digits(), load_digits()
    assert (data.train[0].shape, data.test[0].shape) == ((1_437, 1, 8, 8), (360, 1, 8, 8))
    ours = torch.cat(
        [torch.cat([images.flatten(1) * 16, labels[:, None]], 1) for images, labels in (data.train, data.test)]
    )
    theirs = np.concatenate([bunch.data, bunch.target[:, None]], 1)
    assert sorted(map(tuple, ours.tolist())) == sorted(map(tuple, theirs.tolist()))
    shares = data.test[1].bincount().double() / torch.from_numpy(bunch.target).bincount()
    torch.testing.assert_close(shares, torch.full((10,), 360 / 1797, dtype=torch.float64), rtol=0, atol=0.004)


def test_the_split_of_the_digits_never_moves() -> None:
    assert digits().fingerprint == "40029d3bb8dd5969e3eeaddbec6b9233"


# Folders --------------------------------------------------------------------------------------------------------


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def flat(value: int, height: int = 4, width: int = 4) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    root = tmp_path / "zoo"
    for split, offset in (("train", 0), ("val", 100)):
        save(root / split / "cat" / "b.png", flat(offset + 2))
        save(root / split / "cat" / "a.PNG", flat(offset + 1))
        save(root / split / "cat" / "deep" / "z.bmp", flat(offset + 3))
        save(root / split / "ant" / "k.png", flat(offset))
        (root / split / "ant" / "notes.txt").write_text("no image")
        (root / split / ".hidden").mkdir()
    return root


def test_folders_are_classes_in_alphabetical_order(zoo: Path) -> None:
    data = image_folder(zoo, 4)
    assert (data.name, data.classes) == ("zoo", 2)
    for (images, labels), offset in ((data.train, 0), (data.test, 100)):
        assert images.shape == (4, 3, 4, 4)
        assert labels.tolist() == [0, 1, 1, 1]
        assert (images[:, 0, 0, 0] * 255).round().tolist() == [offset, offset + 1, offset + 2, offset + 3]


def test_splits_may_have_other_names_and_lack_classes(zoo: Path) -> None:
    (zoo / "val").rename(zoo / "holdout")
    (zoo / "holdout" / "ant" / "k.png").unlink()
    (zoo / "holdout" / "ant" / "notes.txt").unlink()
    (zoo / "holdout" / "ant").rmdir()
    assert image_folder(zoo, 4, test="holdout").test[1].tolist() == [1, 1, 1]


@pytest.mark.parametrize(("height", "width"), [(6, 10), (10, 6), (6, 6), (7, 11)])
def test_the_central_square_is_kept(zoo: Path, height: int, width: int) -> None:
    image = RANDOM.integers(0, 256, (height, width, 3), np.uint8)
    save(zoo / "train" / "ant" / "k.png", image)
    got = image_folder(zoo, 4, resize=min(height, width)).train[0][0]  # no resizing: pixels must be the file's own
    top, left = round((height - 4) / 2), round((width - 4) / 2)
    expected = image[top : top + 4, left : left + 4].transpose(2, 0, 1)
    np.testing.assert_array_equal((got * 255).round().numpy().astype(int), expected)


@pytest.mark.parametrize(("height", "width"), [(8, 16), (16, 8), (3, 5), (9, 31)])
def test_the_short_side_is_resized(zoo: Path, height: int, width: int) -> None:
    ramp = np.linspace(0, 240, max(height, width)).astype(np.uint8)
    image = np.broadcast_to(ramp[None, :, None] if width > height else ramp[:, None, None], (height, width, 3))
    save(zoo / "train" / "ant" / "k.png", np.ascontiguousarray(image))
    got = image_folder(zoo, 4).train[0][0, 0] * 255
    along = got.mean(0 if width > height else 1)
    assert torch.allclose(got, along[None, :] if width > height else along[:, None], atol=1)
    assert bool((along.diff() > 0).all())  # a ramp stays a ramp, its middle in the middle
    assert float(along.mean()) == pytest.approx(120, abs=12)


def test_gray_and_palette_images_become_what_is_asked_for(zoo: Path) -> None:
    save(zoo / "train" / "ant" / "k.png", np.full((4, 4), 50, np.uint8))
    assert (image_folder(zoo, 4).train[0][0] * 255).round().unique().tolist() == [50.0]
    gray = image_folder(zoo, 4, mode="L")
    assert gray.train[0].shape == (4, 1, 4, 4)
    assert (gray.train[0][:, 0, 0, 0] * 255).round().tolist() == [50.0, 1.0, 2.0, 3.0]


def test_a_few_images_of_each_class(zoo: Path) -> None:
    data = image_folder(zoo, 4, per_class=2)
    assert data.train[1].tolist() == data.test[1].tolist() == [0, 1, 1]
    assert image_folder(zoo, 4, per_class=2).fingerprint == data.fingerprint
    assert len({image_folder(zoo, 4, per_class=2, seed=seed).fingerprint for seed in range(10)}) > 1


def test_an_image_that_cannot_be_read_is_named(zoo: Path) -> None:
    (zoo / "val" / "cat" / "b.png").write_bytes(b"not an image")
    with pytest.raises(NetopsyError, match=r"val.cat.b.png: expected an image; .* repair it or move it away"):
        image_folder(zoo, 4)


def test_an_image_cut_short_is_named(zoo: Path) -> None:
    file = zoo / "train" / "cat" / "b.png"
    save(file, RANDOM.integers(0, 256, (40, 40, 3), np.uint8))
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(NetopsyError, match=r"train.cat.b.png: expected an image"):
        image_folder(zoo, 4)


def test_folders_that_are_missing_or_empty_are_named(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(
        NetopsyError, match=r"nothing.train: expected a folder .*; there is none; see train= and test="
    ):
        image_folder(tmp_path / "nothing", 4)
    with pytest.raises(NetopsyError, match=r"cat.deep: expected a folder with one folder a class in it; it has none"):
        image_folder(zoo, 4, train="train/cat/deep")
    (zoo / "train" / "bee").mkdir()
    with pytest.raises(NetopsyError, match=r"expected images in every class; bee has none; remove the folder"):
        image_folder(zoo, 4)
    (zoo / "train" / "bee").rmdir()
    save(zoo / "val" / "yak" / "a.png", flat(0))
    with pytest.raises(NetopsyError, match=r"expected only classes that train/ has; got also yak; move them away"):
        image_folder(zoo, 4)


def test_a_test_split_without_an_image_is_named(zoo: Path) -> None:
    (zoo / "empty" / "cat").mkdir(parents=True)
    with pytest.raises(NetopsyError, match=r"zoo.empty: expected images \(.bmp, .*\); found none"):
        image_folder(zoo, 4, test="empty")


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (0, {}, "size: expected an integer >= 1; got 0"),
        (4, {"resize": 3}, r"resize \(which the crop of 4 is cut from\): expected an integer >= 4; got 3"),
        (4, {"per_class": 0}, "per_class: expected an integer >= 1; got 0"),
    ],
)
def test_sizes_are_checked_first(zoo: Path, size: int, options: dict[str, int], message: str) -> None:
    with pytest.raises(NetopsyError, match=message):
        image_folder(zoo, size, **options)  # type: ignore[arg-type]


def test_the_mode_is_checked(zoo: Path, unchecked: None) -> None:
    with pytest.raises(NetopsyError, match="mode: expected one of 'RGB', 'L'; got 'CMYK'"):
        image_folder(zoo, 4, mode="CMYK")  # type: ignore[arg-type]
