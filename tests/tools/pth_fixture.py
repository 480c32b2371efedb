"""Writes .pth files as torch.save does, without torch: what convert_checkpoint.py reads in the tests."""

from __future__ import annotations

import collections
import dataclasses
import io
import math
import pickle
import sys
import types
import zipfile
from pathlib import Path
from typing import Any
from unittest import mock


class FloatStorage: ...


class HalfStorage: ...


class BFloat16Storage: ...


class IntStorage: ...


def _rebuild_tensor_v2() -> None: ...


STORAGES = {"F32": (FloatStorage, 4), "F16": (HalfStorage, 2), "BF16": (BFloat16Storage, 2), "I32": (IntStorage, 4)}

for _class in (FloatStorage, HalfStorage, BFloat16Storage, IntStorage):
    _class.__module__ = "torch"
_rebuild_tensor_v2.__module__ = "torch._utils"


def stub_modules() -> dict[str, types.ModuleType]:
    """Modules named as torch's, so that pickle writes torch's names."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for storage, _ in STORAGES.values():
        setattr(torch, storage.__name__, storage)
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    torch._utils = utils
    return {"torch": torch, "torch._utils": utils}


@dataclasses.dataclass
class FakeStorage:
    dtype: str
    data: bytes


@dataclasses.dataclass
class FakeTensor:
    """`strides` and `offset` in items; row-major when strides are left out."""

    shape: tuple[int, ...]
    storage: FakeStorage
    offset: int = 0
    strides: tuple[int, ...] | None = None

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        strides = self.strides or tuple(math.prod(self.shape[i + 1 :]) for i in range(len(self.shape)))
        return _rebuild_tensor_v2, (self.storage, self.offset, self.shape, strides, False, collections.OrderedDict())


def tensor(shape: tuple[int, ...], data: bytes, dtype: str = "BF16") -> FakeTensor:
    return FakeTensor(shape, FakeStorage(dtype, data))


def save(content: Any, path: Path) -> None:
    storages: list[FakeStorage] = []

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            if not isinstance(value, FakeStorage):
                return None
            if not any(value is known for known in storages):
                storages.append(value)
            key = next(i for i, known in enumerate(storages) if known is value)
            kind, item_bytes = STORAGES[value.dtype]
            return ("storage", kind, str(key), "cpu", len(value.data) // item_bytes)

    with mock.patch.dict(sys.modules, stub_modules()):
        buffer = io.BytesIO()
        Pickler(buffer, protocol=2).dump(content)
    write_archive(path, buffer.getvalue(), [storage.data for storage in storages])


def write_archive(
    path: Path, pickled: bytes, storages: list[bytes], method: int = zipfile.ZIP_STORED, byteorder: bytes = b"little"
) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", byteorder)
        for key, data in enumerate(storages):
            archive.writestr(f"archive/data/{key}", data)
        archive.writestr("archive/version", "3\n")
