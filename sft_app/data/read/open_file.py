"""Files, compressed or not, as streams of bytes."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import zstandard


class BrokenCompression(ValueError):
    """The compressed file is damaged or cut off."""


_BROKEN = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError)
"""What reading raises where a compressed file is damaged or cut off; bz2 raises a bare OSError."""


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, compressed or not; its bytes are uncompressed as they are asked for.

    Reading raises BrokenCompression where the compressed data are damaged or end early.
    """
    suffix = path.suffix.lower()
    with path.open("rb") as file:
        try:
            match suffix:
                case ".gz":
                    with gzip.GzipFile(fileobj=file) as stream:
                        yield io.BufferedReader(stream)
                case ".bz2":
                    with bz2.BZ2File(file) as stream:
                        yield io.BufferedReader(stream)
                case ".xz":
                    with lzma.LZMAFile(file) as stream:
                        yield io.BufferedReader(stream)
                case ".zst":
                    yield io.BufferedReader(_ZstdFile(file))
                case _:
                    yield file
        except _BROKEN as error:
            raise BrokenCompression(str(error)) from error
        except OSError as error:
            if suffix == ".bz2" and error.errno is None:
                raise BrokenCompression(str(error)) from error
            raise


class _ZstdFile(io.RawIOBase):
    """zstandard's own stream reader ends a truncated file without an error; this one raises."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decompressor = zstandard.ZstdDecompressor().decompressobj()
        self._started = False
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        while not self._ready:
            compressed = self._decompressor.unused_data or self._file.read(1 << 17)
            if self._decompressor.eof:  # another frame may follow
                self._decompressor = zstandard.ZstdDecompressor().decompressobj()
                self._started = False
            if not compressed:
                if self._started:
                    raise EOFError("the compressed data ends early")
                return 0
            self._started = True
            self._ready = self._decompressor.decompress(compressed)
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count
