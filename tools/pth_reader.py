"""Reads the tensors of a PyTorch .pth file without PyTorch and without running what is in it.

A .pth file is a zip archive: a pickle that describes the tensors, and one member of raw bytes per storage. A
pickle is a program; this reader lets it name five things, all of which only describe data, and refuses the
file at the first other name.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MAX_PICKLE_BYTES = 64 << 20  # names and shapes alone: a large model's is 0.1 MB
MAX_BYTEORDER_BYTES = 16  # "little" or "big"


class CheckpointError(Exception):
    """The file cannot be used; the message is one line for the user."""


# Tuples, because a pickle can change the attributes of any object that has some.


class StorageType(NamedTuple):
    dtype: str  # as safetensors calls it
    item_bytes: int


class Storage(NamedTuple):
    type: StorageType
    key: str
    items: int


class Tensor(NamedTuple):
    """Where a tensor lies; its bytes are read when they are asked for."""

    storage: Storage
    offset: int  # in items
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in items

    @property
    def dtype(self) -> str:
        return self.storage.type.dtype

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.storage.type.item_bytes


class _RebuildTensor:
    """Stands for torch._utils._rebuild_tensor_v2. Holds no state that a pickle could change."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, shape: Any, strides: Any, *ignored: Any) -> Tensor:
        if not isinstance(storage, Storage):
            raise CheckpointError("a tensor has no storage")
        numbers = (offset, *shape, *strides)
        if len(shape) != len(strides) or not all(isinstance(n, int) and 0 <= n < 1 << 48 for n in numbers):
            raise CheckpointError(f"a tensor has offset {offset!r}, shape {shape!r}, strides {strides!r}")
        tensor = Tensor(storage, offset, tuple(shape), tuple(strides))
        _check_bounds(tensor)
        return tensor


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch", "BFloat16Storage"): StorageType("BF16", 2),
    ("torch", "HalfStorage"): StorageType("F16", 2),
    ("torch", "FloatStorage"): StorageType("F32", 4),
}


def _check_bounds(tensor: Tensor) -> None:
    """Every element lies in the storage and no two share a place."""
    if math.prod(tensor.shape) == 0:
        raise CheckpointError(f"a tensor of shape {list(tensor.shape)} is empty")
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides))
    if last >= tensor.storage.items:
        raise CheckpointError(
            f"a tensor of shape {list(tensor.shape)} ends at item {last + 1} of a storage of {tensor.storage.items}"
        )
    reach = 1  # items covered by the dimensions of smaller stride
    for stride, size in sorted((t, s) for s, t in zip(tensor.shape, tensor.strides) if s > 1):
        if stride < reach:
            raise CheckpointError(f"a tensor of shape {list(tensor.shape)} overlaps itself")
        reach = stride * size


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[(module, name)]
        except KeyError:
            raise CheckpointError(f"its pickle asks for {module}.{name}; only plain tensors are read") from None

    def persistent_load(self, pid: Any) -> Storage:
        match pid:
            case ("storage", StorageType() as kind, str(key), str(), int(items)) if items >= 0:
                return Storage(kind, key, items)
        raise CheckpointError("its pickle refers to something that is no storage")


class PthFile:
    """The named tensors of one .pth file, in the order they were saved."""

    def __init__(self, path: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except zipfile.BadZipFile:
            raise CheckpointError(
                f"{path} is not a zip archive; a file saved by PyTorch before 1.6 must be loaded and saved again"
            ) from None
        except OSError as error:
            raise CheckpointError(f"cannot open {path}: {error.strerror}") from None
        self._prefix = self._find_prefix(path)
        self.tensors = self._read_pickle()
        for name, tensor in self.tensors.items():
            self._check_member(name, tensor)

    def close(self) -> None:
        self._zip.close()

    def data(self, name: str) -> bytes:
        """The tensor's elements in row-major order, bit for bit as stored."""
        tensor = self.tensors[name]
        raw = self._read(f"data/{tensor.storage.key}")
        items = np.frombuffer(raw, dtype=f"<u{tensor.storage.type.item_bytes}")[tensor.offset :]
        strides = [stride * items.itemsize for stride in tensor.strides]
        return np.lib.stride_tricks.as_strided(items, tensor.shape, strides, writeable=False).tobytes()

    def _find_prefix(self, path: Path) -> str:
        pickles = [name for name in self._zip.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise CheckpointError(f"{path} is a zip archive but not one that torch.save wrote")
        return pickles[0].removesuffix("data.pkl")

    def _read(self, member: str, most: int | None = None) -> bytes:
        """`most` bytes are the limit where nothing else bounds it: one byte of the archive can make a thousand."""
        try:
            info = self._zip.getinfo(self._prefix + member)
            if most is not None and info.file_size > most:
                raise CheckpointError(f"its member {member} has {info.file_size} bytes; the limit is {most}")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise CheckpointError(f"its member {member} is compressed by method {info.compress_type}; expected none")
            return self._zip.read(info)
        except (KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError, EOFError) as error:
            raise CheckpointError(f"cannot read its member {member}: {error}") from None

    def _read_pickle(self) -> dict[str, Tensor]:
        has_order = self._prefix + "byteorder" in self._zip.namelist()
        if has_order and self._read("byteorder", MAX_BYTEORDER_BYTES) != b"little":
            raise CheckpointError("it was saved on a big-endian machine")
        try:
            content = _Unpickler(io.BytesIO(self._read("data.pkl", MAX_PICKLE_BYTES))).load()
        except CheckpointError:
            raise
        except Exception as error:  # a damaged pickle raises almost anything
            raise CheckpointError(f"its pickle is damaged: {type(error).__name__}: {error}") from None
        if not isinstance(content, dict) or not content:
            raise CheckpointError("it does not hold a dictionary of tensors")
        tensors = dict(dict.items(content))  # a pickle can replace the methods of the object, not those of its type
        for name, tensor in tensors.items():
            if not isinstance(name, str) or not isinstance(tensor, Tensor):
                raise CheckpointError(f"its entry {name!r} is no tensor; expected the model's weights alone")
        return tensors

    def _check_member(self, name: str, tensor: Tensor) -> None:
        expected = tensor.storage.items * tensor.storage.type.item_bytes
        try:
            actual = self._zip.getinfo(f"{self._prefix}data/{tensor.storage.key}").file_size
        except KeyError:
            raise CheckpointError(f"the data of {name} is missing from the archive") from None
        if actual != expected:
            raise CheckpointError(f"the data of {name} has {actual} bytes; its pickle says {expected}")
