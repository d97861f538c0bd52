"""Fetch or make the data of the examples into the folder ``data`` beside this file; none of it is part of NagEdge.

python docs/examples/fetch.py text      23,703 rated sentences, from the sources of PyPI's vaderSentiment 3.3.2 (MIT)
python docs/examples/fetch.py audio     1,836 spoken letters, from Debian's klettres-data (GPL); needs apt-get
python docs/examples/fetch.py fashion   70,000 pictures of clothes, Debian's dataset-fashion-mnist (MIT); needs apt-get
python docs/examples/fetch.py meats     215 spectra of meat, from Debian's r-cran-modeldata (MIT); needs apt-get
python docs/examples/fetch.py wine      178 wines, from scikit-learn (BSD)
python docs/examples/fetch.py lines     two straight lines, made up
"""

from __future__ import annotations

import csv
import gzip
import io
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

DATA = Path(__file__).resolve().parent / "data"


def main(names: Sequence[str]) -> int:
    """Fetch each of the named sets."""
    if not names or any(name not in SETS for name in names):
        print(__doc__)
        return 2
    for name in names:
        DATA.mkdir(exist_ok=True)
        print(SETS[name](DATA))
    return 0


def debian(package: str, folder: Path) -> Path:
    """Download a Debian package with apt-get, unpack it, and return the folder."""
    if shutil.which("apt-get") is None:
        sys.exit(
            f"{package} comes from Debian: run this where apt-get and dpkg are, and copy the folder {DATA} from there."
        )
    subprocess.run(["apt-get", "download", package], cwd=folder, check=True, capture_output=True)
    subprocess.run(
        ["dpkg", "-x", str(next(folder.glob(f"{package}*.deb"))), str(folder / "root")], check=True
    )
    return folder / "root"


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Write a table and say what was written."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return f"{path}: {len(rows)} rows"


def text(out: Path) -> str:
    """Sentences with domain, polarity and intensity; the ratings are means of twenty people, from -4 to 4."""
    rows: list[tuple[object, ...]] = []
    with tempfile.TemporaryDirectory() as folder:
        pip = shutil.which("pip") or sys.exit(
            "pip is not on the path: pip install pip, or activate an environment."
        )
        command = [pip, "download", "-q", "--no-deps", "--no-binary", ":all:", "vaderSentiment==3.3.2"]
        subprocess.run([*command, "-d", folder], check=True)
        with tarfile.open(next(Path(folder).glob("*.tar.gz"))) as archive:
            name = next(n for n in archive.getnames() if n.endswith("hutto_ICWSM_2014.tar.gz"))
            inner = archive.extractfile(name)
            assert inner is not None
            with tarfile.open(fileobj=io.BytesIO(inner.read())) as ratings:
                for domain in (
                    "tweets",
                    "amazonReviewSnippets",
                    "movieReviewSnippets",
                    "nytEditorialSnippets",
                ):
                    file = ratings.extractfile(f"hutto_ICWSM_2014/{domain}_GroundTruth.txt")
                    assert file is not None
                    for line in file.read().decode("utf-8", "replace").splitlines():
                        _, rating, sentence = line.split("\t", 2)
                        score = float(rating)
                        polarity = "negative" if score < -0.2 else "positive" if score > 0.2 else "neutral"
                        short = (
                            domain.removesuffix("Snippets").removesuffix("Review").removesuffix("Editorial")
                        )
                        rows.append((sentence.strip(), short, polarity, f"{abs(score):.4f}"))
    return write_csv(out / "sentences.csv", ["text", "domain", "polarity", "intensity"], rows)


def audio(out: Path) -> str:
    """Spoken letters and syllables: the file's name is what is said, its folder the language."""
    with tempfile.TemporaryDirectory() as folder:
        root = debian("klettres-data", Path(folder)) / "usr/share/klettres"
        files = sorted(root.glob("*/*/*.ogg"))
        rows = []
        for file in files:
            language, kind = file.parts[-3:-1]
            target = out / "klettres" / language / f"{kind}-{file.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
            letter = file.stem[0].lower() if kind == "alpha" and file.stem[:1].isascii() else ""
            known = letter if letter.isalpha() else ""
            rows.append((f"{language}/{target.name}", language, known))
    return write_csv(out / "klettres" / "labels.csv", ["file", "language", "letter"], rows)


def fashion(out: Path) -> str:
    """Pictures of clothes as arrays: the 70,000 of both parts."""
    with tempfile.TemporaryDirectory() as folder:
        root = debian("dataset-fashion-mnist", Path(folder)) / "usr/share/datasets/fashion-mnist"

        def values(kind: str, header: int) -> np.ndarray:
            """Return the bytes of both parts after their headers."""
            files = (root / f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k"))
            return np.concatenate([
                np.frombuffer(gzip.decompress(file.read_bytes())[header:], np.uint8) for file in files
            ])  # fmt: skip

        pixels, labels = values("images-idx3", 16).reshape(-1, 1, 28, 28), values("labels-idx1", 8)
    ink = (pixels / 255.0).mean(axis=(1, 2, 3)).astype(np.float32)
    np.savez_compressed(out / "fashion.npz", image=pixels, garment=labels.astype(np.int64), ink=ink)
    return f"{out / 'fashion.npz'}: {len(pixels)} pictures"


def wine(out: Path) -> str:
    """Thirteen measurements of wines of three growers."""
    from sklearn.datasets import load_wine

    bunch = load_wine()
    names = [name.replace("/", "_") for name in bunch.feature_names]
    rows = [(*row, label) for row, label in zip(bunch.data.tolist(), bunch.target.tolist(), strict=True)]
    return write_csv(out / "wine.csv", [*names, "grower"], rows)


def lines(out: Path) -> str:
    """The two lines y = 2 x + 1 and y = 3 x + 2, with a little noise."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, 300)
    first, second = 2 * x + 1 + 0.05 * rng.standard_normal(300), 3 * x + 2 + 0.05 * rng.standard_normal(300)
    return write_csv(
        out / "lines.csv", ["x", "first", "second"], np.stack([x, first, second], 1).round(5).tolist()
    )


def meats(out: Path) -> str:
    """Near-infrared absorbances of meat at 100 wavelengths, with its water, fat and protein."""
    with tempfile.TemporaryDirectory() as folder:
        data = debian("r-cran-modeldata", Path(folder)) / "usr/lib/R/site-library/modeldata/data"
        index = Serialised(gzip.decompress((data / "Rdata.rdx").read_bytes())).value()
        offset, length = index["variables"]["meats"]
        chunk = (data / "Rdata.rdb").read_bytes()[int(offset) : int(offset) + int(length)]
        if chunk[4:5] in b"2Z":
            import bz2
            import lzma

            content = (
                bz2.decompress(chunk[5:])
                if chunk[4:5] == b"2"
                else lzma.decompress(
                    chunk[5:], lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 6}]
                )
            )
        else:
            content = zlib.decompress(chunk[4:])
        table = Serialised(content).value()
    rows = np.stack([np.asarray(column, float) for column in table.values()], axis=1)
    return write_csv(out / "meats.csv", list(table), rows.tolist())


class Serialised:
    """What ``serialize`` of R wrote, big-endian (R Internals, 1.8): enough of it for tables of numbers."""

    def __init__(self, content: bytes) -> None:
        self.content, self.place, self.references = content, 14, []
        if struct.unpack(">i", content[2:6])[0] == 3:
            self.place += 4 + struct.unpack(">i", content[14:18])[0]

    def integer(self) -> int:
        """Read four bytes."""
        self.place += 4
        return int(struct.unpack(">i", self.content[self.place - 4 : self.place])[0])

    def numbers(self, kind: str) -> list[float]:
        """Read a vector of a struct type."""
        count, size = self.integer(), struct.calcsize(kind)
        self.place += count * size
        return list(struct.unpack(f">{count}{kind}", self.content[self.place - count * size : self.place]))

    def value(self) -> object:
        """Read one object; a list with names becomes a dict."""
        flags = self.integer()
        kind, attributes, tag = flags & 255, bool(flags & 512), bool(flags & 1024)
        if kind in (254, 242, 241, 253):
            return None
        if kind == 255:
            return self.references[(flags >> 8) - 1]
        if kind == 1:
            self.references.append(self.value())
            return self.references[-1]
        if kind == 9:
            length = self.integer()
            self.place += max(length, 0)
            return self.content[self.place - length : self.place].decode() if length >= 0 else None
        if kind == 2:
            return self.pairs(attributes, tag)
        if kind == 238:
            return self.compact()
        if kind in (10, 13, 14):
            items: list[object] = list(self.numbers("d" if kind == 14 else "i"))
        elif kind in (16, 19):
            items = [self.value() for _ in range(self.integer())]
        else:
            raise ValueError(f"type {kind} of R is not known here")
        names = (self.value() or {}).get("names") if attributes else None
        return dict(zip(names, items, strict=True)) if names else items

    def pairs(self, attributes: bool, tag: bool) -> dict[object, object]:
        """Read a pairlist: one flags word an entry."""
        found: dict[object, object] = {}
        while True:
            if attributes:
                self.value()
            key = self.value() if tag else len(found)
            found[key] = self.value()
            flags = self.integer()
            if flags & 255 == 254:
                return found
            attributes, tag = bool(flags & 512), bool(flags & 1024)

    def compact(self) -> list[object]:
        """Read an ALTREP: of those only compact sequences occur."""
        self.value()
        state = self.value()
        self.value()
        count, first, step = (float(x) for x in state)
        return [first + i * step for i in range(int(count))]


SETS: dict[str, Callable[[Path], str]] = {
    "text": text, "audio": audio, "fashion": fashion, "meats": meats, "wine": wine, "lines": lines,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
