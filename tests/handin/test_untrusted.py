"""Archives and parameter files that strangers made: refused in one line, and nothing in them is run."""

import io
import os
import stat
import zipfile
from pathlib import Path

import pytest
import torch

import untrusted
from helpers import tiny_model
from untrusted import Archive, read_tensors
from utils import UserError


def packed(content: dict[str, bytes], number: int = 0, **listed) -> io.BytesIO:
    """A zip; `listed` are attributes of an entry that its list gives, true or not."""
    with zipfile.ZipFile(buffer := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in content.items():
            archive.writestr(name, raw)
        for name, value in listed.items():
            setattr(archive.filelist[number], name, value)
    return buffer


REFUSED = {
    **{path: (packed({path: b""}), "leads out of the folder") for path in ("../a", "a/../../b", "/a", "C:a", "..\\a")},
    "a link": (packed({"src": b"/etc"}, external_attr=(stat.S_IFLNK | 0o777) << 16), "src is a link"),
    "a password": (packed({"a": b"a"}, flag_bits=1), "is encrypted"),
    "bzip2": (packed({"a": b"a"}, compress_type=zipfile.ZIP_BZIP2), "is compressed in an unusual way"),
    "a name twice": (packed({"a": b"a", "./a": b"b"}), "./a is there twice"),
    "a name for terminals": (packed({"/\x1b[2J": b""}), r"'/\x1b[2J' leads out"),
    "a bomb": (packed({"a": bytes(3 * 10**6)}), "a would grow from"),
    "too large in all": (packed({"a": b"a"}, file_size=10**9, compress_size=10**8), "holds 1,000 MB, 10 are read"),
    "too many files": (packed({str(i): b"" for i in range(5001)}), "holds 5001 files, 5000 are read"),
    "too long a list": (
        packed({str(i): b"" for i in range(99)}, comment=bytes(60_000)),
        "its list of files is too long",
    ),
    "too short a size": (packed({"a": b"abc" * 9}, file_size=3), "a is damaged (Bad CRC-32"),
    "more than is said": (packed({"a": bytes(10**6)}, compress_size=10**5), "a is damaged ("),
    "too large alone": (packed({"a": os.urandom(1001)}), "a has more than 0 MB"),
    "none": (io.BytesIO(b"PK\3\4" + bytes(99)), "is no zip archive"),
}


@pytest.mark.parametrize("file, text", REFUSED.values(), ids=REFUSED)
def test_dangerous_archives_are_refused(monkeypatch, file: io.BytesIO, text: str):
    """Paths that leave the folder, what is no plain file, bombs, false sizes."""
    monkeypatch.setattr(untrusted, "NAMES", 500_000 if "5001" in text else 60_000)
    with pytest.raises(UserError) as caught:
        Archive(io.BytesIO(file.getvalue()), "any.zip", 10**7).read("a", 1000)
    assert str(caught.value).startswith("any.zip: ") and text in str(caught.value) and "\n" not in str(caught.value)


def test_archives_are_read():
    """Folders are left out, backslashes part names, and the content is the content."""
    archive = Archive(packed({"src/": b"", "src\\a.py": b"a" * 10**6, "b c": b""}), "any.zip", 10**7)
    assert set(archive.files) == {"src/a.py", "b c"} and archive.has_backslashes
    assert archive.read("src/a.py", 10**6) == b"a" * 10**6 and archive.read("b c", 1) == b""


def saved(value: object) -> bytes:
    """What torch.save writes."""
    torch.save(value, buffer := io.BytesIO())
    return buffer.getvalue()


def rewritten(raw: bytes, **changed: bytes) -> bytes:
    """A parameter file, compressed, in which tensors have other bytes: _0=bytes for the first."""
    with zipfile.ZipFile(io.BytesIO(raw)) as old:
        records = {name: old.read(name) for name in old.namelist()}
    return packed(records | {f"archive/data/{key[1:]}": raw for key, raw in changed.items()}).getvalue()


class Runs:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("run",)


class Fills:
    """Takes memory when it is unpickled."""

    def __reduce__(self):
        return bytearray, (10**12,)


STATE = tiny_model().state_dict()
FILES = {
    "half of it": (saved(STATE)[:5000], "is no zip archive, or a damaged one"),
    "no archive of torch": (packed({"a/b": b""}).getvalue(), "is damaged, or not of torch.save"),
    "a damaged pickle": (packed({"a/data.pkl": b"\x80\x02}q", "a/version": b"3"}).getvalue(), "is damaged, or not of"),
    "part of a tensor": (rewritten(saved(STATE), _0=b"\0" * 9), "is damaged, or not of torch.save"),
    "a bomb": (rewritten(saved(STATE), _99=bytes(3 * 10**6)), "archive/data/99 would grow from"),
    "code": (saved({"a": Runs()}), "it holds more than tensors (posix mkdir); save the state dict alone"),
    "memory": (saved({"a": Fills()}), "it holds more than tensors (__builtin__ bytearray); save the state dict alone"),
    "a model": (saved(tiny_model()), "it holds more than tensors ("),
    "a checkpoint": (saved({"model": {}, "step": 3}), "is not the state dict of a model; save the state dict alone"),
}


@pytest.mark.parametrize("raw, text", FILES.values(), ids=FILES)
def test_what_is_no_state_dict_is_refused(monkeypatch, tmp_path, raw: bytes, text: str):
    """In one line, and it is not run."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        read_tensors(raw, "any.params")
    assert str(caught.value).startswith("any.params: ") and text in str(caught.value) and "\n" not in str(caught.value)
    assert not Path("run").exists()


def test_state_dicts_are_read():
    """Shapes are those of the tensors, tied or not; the fingerprint is that of the values, whatever the file's name."""
    tied = STATE | {"tied": STATE["head.weight"], "row": STATE["head.weight"][2:3], "mask": torch.ones(3, 3).bool()}
    shapes, values = read_tensors(saved(tied), "any.params")
    assert shapes == {name: tuple(tensor.shape) for name, tensor in tied.items()}
    assert values == read_tensors(rewritten(saved(tied)), "any.params")[1]
    assert values != read_tensors(saved(tied | {"mask": torch.zeros(3, 3).bool()}), "any.params")[1]
