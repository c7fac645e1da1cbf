"""Zip archives and parameter files that strangers made: read in memory, within limits, running nothing of theirs."""

import io
import pickletools
import posixpath
import re
import stat
import sys
import zipfile
import zlib
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from engine.checkpoints import is_state_dict  # noqa: E402
from engine.files import fingerprint  # noqa: E402
from utils import UserError  # noqa: E402

MB = 1_000_000
PARAMS, TEXT = 100 * MB, MB  # most of a parameter file, of any other file that is read
FILES, NAMES = 5000, 2 * MB  # most of an archive: files, bytes of its list of files
RATIO = 100  # most that a file of over 1 MB may grow by when it is unpacked; parameters grow by a tenth
# What a pickle of tensors by their names refers to; anything else could run, or take memory at will.
PLAIN = re.compile(r"collections OrderedDict|torch\._utils _rebuild_(?:tensor_v2|parameter)|torch \w+Storage")


def shown(name: str) -> str:
    """A name that a stranger gave, as a terminal may show it."""
    return name[:100] if name.isprintable() else ascii(name[:100])


class Bounded(io.BufferedReader):
    """A file that is not read in big pieces: zipfile takes the whole list of an archive's files at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        """As other files do. BadZipFile: more than NAMES bytes are asked for."""
        if size is not None and size > NAMES:
            raise zipfile.BadZipFile("its list of files is too long")
        return super().read(NAMES if size is None or size < 0 else size)


class Archive:
    """A zip archive, and its files by their names; folders are left out.

    Args:
        file: where it is read from, unbuffered.
        source: its name, for messages.
        most: bytes that all its files may have, unpacked.

    Raises:
        UserError: it is none, is a bomb, or holds what does not belong into a folder of plain files.
    """

    def __init__(self, file: io.RawIOBase | io.BytesIO, source: str, most: int):
        self.source = source
        self.files: dict[str, zipfile.ZipInfo] = {}
        try:
            self.zip = zipfile.ZipFile(Bounded(file))
        except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, ArithmeticError) as error:
            raise UserError(f"{source}: is no zip archive, or a damaged one ({error}); make it again") from None
        entries = self.zip.infolist()
        if len(entries) > FILES:
            raise UserError(f"{source}: refused, it holds {len(entries)} files, {FILES} are read; leave out the others")
        if (size := sum(entry.file_size for entry in entries)) > most:
            raise UserError(
                f"{source}: refused, it holds {size / MB:,.0f} MB, {most / MB:.0f} are read; make it smaller"
            )
        for entry in entries:
            path = entry.orig_filename.replace("\\", "/")
            name = posixpath.normpath(path)
            if wrong := self.wrong_with(entry, path) or ("is there twice" if name in self.files else ""):
                raise UserError(f"{source}: refused, {shown(entry.orig_filename)} {wrong}; zip the plain files again")
            if not path.endswith("/"):
                self.files[name] = entry
        self.has_backslashes = any("\\" in entry.orig_filename for entry in entries)

    @staticmethod
    def wrong_with(entry: zipfile.ZipInfo, path: str) -> str:
        """Why an entry is refused, in words; "" if it is not."""
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if not path or path.startswith("/") or re.match("[A-Za-z]:", path) or ".." in path.split("/"):
            return "leads out of the folder"
        if "\0" in path:
            return "has a zero byte in its name"
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            return "is a link or a device"
        if entry.flag_bits & 1:
            return "is encrypted"
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            return "is compressed in an unusual way"
        if entry.file_size > max(MB, RATIO * entry.compress_size):
            return f"would grow from {entry.compress_size:,} to {entry.file_size:,} bytes"
        return ""

    def read(self, name: str, most: int) -> bytes:
        """The content of a file. UserError: it is damaged, or larger than `most` bytes, whatever the list says."""
        content = bytearray()
        try:
            with self.zip.open(self.files[name]) as file:
                while len(content) <= most and (piece := file.read(2**16)):
                    content += piece
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError) as error:
            raise UserError(f"{self.source}: {shown(name)} is damaged ({error}); zip it again") from None
        if len(content) > most:
            raise UserError(f"{self.source}: refused, {shown(name)} has more than {most / MB:.0f} MB; make it smaller")
        return bytes(content)


def read_tensors(raw: bytes, source: str) -> tuple[dict[str, tuple[int, ...]], str]:
    """The shapes of a parameter file's tensors by their names, and a fingerprint of the values.

    torch reads a copy that is written here, with true sizes, after its pickle was found to speak of tensors alone.
    It trusts what the pickle says of a tensor's length, so nobody looks at values.

    Raises:
        UserError: it is no state dict, or damaged.
    """
    archive = Archive(io.BytesIO(raw), source, PARAMS)
    records, copy = {}, io.BytesIO()
    with zipfile.ZipFile(copy, "w") as rewritten:
        for name in archive.files:
            inside = name.partition("/")[2]  # the first part is the file's old name
            if inside in ("data.pkl", "version") or inside.startswith("data/"):
                records[inside] = archive.read(name, PARAMS if inside.startswith("data/") else TEXT)
                rewritten.writestr(f"archive/{inside}", records[inside])
    values = b"".join(record for name, record in sorted(records.items()) if name.startswith("data/"))
    alone = "save the state dict alone: torch.save(model.state_dict(), path)"
    foreign, state = set(), None
    try:
        for opcode, argument, _ in pickletools.genops(records["data.pkl"]):
            if opcode.name in ("GLOBAL", "STACK_GLOBAL", "INST") and not PLAIN.fullmatch(str(argument)):
                foreign.add(str(argument))
        if not foreign:
            copy.seek(0)
            state = torch.load(copy, map_location="cpu", weights_only=True)
    except Exception as error:  # many kinds for damaged files
        raise UserError(f"{source}: is damaged, or not of torch.save ({type(error).__name__}); make it again") from None
    if foreign:
        raise UserError(f"{source}: refused, it holds more than tensors ({shown(min(foreign))}); {alone}")
    if not is_state_dict(state):
        raise UserError(f"{source}: is not the state dict of a model; {alone}")
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in state.values()}
    if sum(storages.values()) > len(values):
        raise UserError(f"{source}: is damaged, part of its values is not there; make it again")
    return {str(name): tuple(tensor.shape) for name, tensor in state.items()}, fingerprint(values)
