"""convert_checkpoint.py: golden models survive the way through a .pth file; bad files get one clear line."""

from __future__ import annotations

import collections
import contextlib
import io
import json
import math
import pickle
import re
import struct
import sys
import tempfile
import unittest
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(Path(__file__).parent)]

import convert_checkpoint  # noqa: E402
import pth_fixture  # noqa: E402

GOLDEN = ROOT / "tests" / "golden"
CASES = ("goldfinch", "goldfinch-rope", "goldfinch-ratio6", "goldfinch-no-v2", "finch-upgrade", "finch")
ASKED = ["--use_v2=1", "--use_one_minus_w=1", "--rope=none", "--ctx_len=4096"]
VOCAB_SIZE = 300
VOCABULARY = "".join(f"{byte + 1} {bytes([byte])!r} 1\n" for byte in range(256)) + "270 \"it's\" 4\n299 'é' 2\n"


def read_safetensors(path: Path) -> dict[str, tuple[str, list[int], bytes]]:
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__", None)
    data = raw[8 + length :]
    return {name: (x["dtype"], x["shape"], data[slice(*x["data_offsets"])]) for name, x in header.items()}


def golden_tensors(case: str) -> dict[str, tuple[str, list[int], bytes]]:
    """The tensors of a golden model, with rows of zeros for as many ids as a vocabulary of all bytes needs."""
    tensors = read_safetensors(GOLDEN / case / "model.safetensors")
    for name in ("emb.weight", "head.weight"):
        dtype, (rows, width), data = tensors[name]
        tensors[name] = (dtype, [VOCAB_SIZE, width], data + bytes(len(data) // rows) * (VOCAB_SIZE - rows))
    return tensors


def golden_state(case: str) -> collections.OrderedDict[str, pth_fixture.FakeTensor]:
    tensors = golden_tensors(case)
    return collections.OrderedDict(
        (name, pth_fixture.tensor(tuple(shape), data, dtype)) for name, (dtype, shape, data) in tensors.items()
    )


class ConvertTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.checkpoint = self.folder / "model.pth"
        self.vocabulary = self.folder / "vocab.txt"
        self.vocabulary.write_text(VOCABULARY, encoding="utf-8")
        self.output = self.folder / "out" / "model"

    def convert(self, *flags: str) -> tuple[int, str]:
        """Exit code, and everything printed."""
        printed = io.StringIO()
        arguments = [str(self.checkpoint), str(self.vocabulary), str(self.output), *flags]
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            code = convert_checkpoint.main(arguments)
        return code, printed.getvalue()

    def assert_refused(self, pattern: str, *flags: str) -> None:
        code, printed = self.convert(*(flags or ASKED))
        self.assertEqual(code, 1, printed)
        self.assertRegex(printed, pattern)
        self.assertEqual(printed.count("\n"), 1, printed)
        self.assertFalse(self.output.exists())
        self.assertFalse(list(self.folder.glob("out/*")))

    def assert_state_refused(self, pattern: str, **changed: pth_fixture.FakeTensor | None) -> None:
        """`changed` replaces tensors of the golden model; None removes them. `__` stands for a dot."""
        state = golden_state("goldfinch")
        for name, tensor in changed.items():
            name = name.replace("__", ".")
            if tensor is None:
                del state[name]
            else:
                state[name] = tensor
        pth_fixture.save(state, self.checkpoint)
        self.assert_refused(pattern)

    # What works.

    def test_golden_models_come_out_as_they_went_in(self) -> None:
        for case in CASES:
            with self.subTest(case):
                self.output = self.folder / case
                expected = json.loads((GOLDEN / case / "config.json").read_text()) | {"vocab_size": VOCAB_SIZE}
                rope = expected["rope"]
                pth_fixture.save(golden_state(case), self.checkpoint)
                flags = [
                    f"--use_v2={expected['use_v2']}",
                    f"--use_one_minus_w={expected['use_one_minus_w']}",
                    f"--rope={rope['base'] if rope else 'none'}",
                    f"--ctx_len={expected['ctx_len']}",
                ]
                code, printed = self.convert(*flags)
                self.assertEqual(code, 0, printed)
                self.assertEqual(json.loads((self.output / "config.json").read_text()), expected)
                self.assertEqual(
                    list(read_safetensors(self.output / "model.safetensors").items()),
                    list(golden_tensors(case).items()),
                )
                self.assertEqual((self.output / "vocab.txt").read_text(encoding="utf-8"), VOCABULARY)

    def test_plain_finch_needs_only_ctx_len(self) -> None:
        pth_fixture.save(golden_state("finch"), self.checkpoint)
        code, printed = self.convert("--ctx_len=1024")
        self.assertEqual(code, 0, printed)

    def test_views_are_copied_out_of_their_storage(self) -> None:
        state = golden_state("goldfinch")
        name = "blocks.0.att.key.weight"
        data = state[name].storage.data
        rows = [data[i : i + 256] for i in range(0, len(data), 256)]
        columns = b"".join(row[2 * i : 2 * i + 2] for i in range(128) for row in rows)
        state[name] = pth_fixture.FakeTensor((128, 128), pth_fixture.FakeStorage("BF16", b"xx" + columns), 1, (1, 128))
        pth_fixture.save(state, self.checkpoint)
        code, printed = self.convert(*ASKED)
        self.assertEqual(code, 0, printed)
        self.assertEqual(read_safetensors(self.output / "model.safetensors")[name][2], data)

    def test_tensors_may_share_a_storage(self) -> None:
        state = golden_state("goldfinch")
        state["head.weight"].storage = state["emb.weight"].storage
        pth_fixture.save(state, self.checkpoint)
        code, printed = self.convert(*ASKED)
        self.assertEqual(code, 0, printed)
        weights = read_safetensors(self.output / "model.safetensors")
        self.assertEqual(weights["head.weight"], weights["emb.weight"])

    def test_unknown_tensors_are_dropped_only_when_asked(self) -> None:
        state = golden_state("goldfinch")
        state["blocks.0.att.extra"] = pth_fixture.tensor((1,), b"\0\0")
        pth_fixture.save(state, self.checkpoint)
        self.assert_refused(r"1 tensors are no part .*blocks\.0\.att\.extra.*--drop_unknown")
        code, printed = self.convert(*ASKED, "--drop_unknown")
        self.assertEqual(code, 0, printed)
        self.assertNotIn("blocks.0.att.extra", read_safetensors(self.output / "model.safetensors"))

    # What a flag must say.

    def test_missing_flags_are_named(self) -> None:
        pth_fixture.save(golden_state("goldfinch"), self.checkpoint)
        self.assert_refused("do not tell --use_v2, --rope:", "--ctx_len=4096", "--use_one_minus_w=1")
        self.assert_refused("do not tell --ctx_len:", *ASKED[:3])
        self.assert_refused("--rope is 'yes'", *ASKED[:2], "--rope=yes", "--ctx_len=1")
        self.assert_refused("--ctx_len is 0", *ASKED[:3], "--ctx_len=0")

    def test_flags_beyond_what_the_server_takes_are_refused(self) -> None:
        """engine/model/config.cc has the same bounds."""
        pth_fixture.save(golden_state("goldfinch"), self.checkpoint)
        for flag, value, bounds in (
            ("ctx_len", "2147483648", "1 to 2147483647"),
            ("ctx_len", "5000000000", "1 to 2147483647"),
            ("rope_rebase", "10000000000000.0", "1e-06 to 1e+12"),
            ("rope_rescale", "1e-07", "1e-06 to 1e+12"),
            ("rope_rescale", "nan", "1e-06 to 1e+12"),
            ("head_size_divisor", "1000000000001", "1e-06 to 1e+12"),
        ):
            message = f"--{flag} is {value}; it must be from {bounds}\n"
            self.assert_refused(re.escape(message), *ASKED, f"--{flag}={value}")
        for base in ("1e13", "1e-7", "nan", "inf", "-1"):
            self.assert_refused(f"--rope is '{base}'; it must be none or a base from ", *ASKED, f"--rope={base}")

    def test_existing_output_is_left_alone(self) -> None:
        pth_fixture.save(golden_state("goldfinch"), self.checkpoint)
        self.output.mkdir(parents=True)
        code, printed = self.convert(*ASKED)
        self.assertEqual(code, 1)
        self.assertIn("exists already", printed)

    # Files that are not checkpoints, or hostile.

    def test_pickle_that_names_code_is_refused_and_not_run(self) -> None:
        witness = self.folder / "ran"

        class Hostile:
            def __reduce__(self) -> object:
                return Path.touch, (witness,)

        class Shell:
            def __reduce__(self) -> object:
                import os

                return os.system, (f"touch {witness}",)

        for hostile in (Hostile(), Shell(), {"emb.weight": Shell()}):
            pth_fixture.write_archive(self.checkpoint, pickle.dumps(hostile), [])
            self.assert_refused("its pickle asks for ")
            self.assertFalse(witness.exists())

    def test_pickle_cannot_reach_through_allowed_names(self) -> None:
        # GLOBAL with a dotted name (protocol 4), and BUILD that would change an allowed object.
        dotted = b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.__init__\x93."
        pth_fixture.write_archive(self.checkpoint, dotted, [])
        self.assert_refused(r"asks for collections\.OrderedDict\.__init__")
        tensor = (
            b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
            b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQK\x00K\x01\x85K\x01\x85\x89}tR"
        )
        names = (b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n")
        for target in (tensor, *names):
            pth_fixture.write_archive(self.checkpoint, b"\x80\x02" + target + b"}X\x01\x00\x00\x00aK\x01sb.", [])
            self.assert_refused("its pickle is damaged")

    def test_damaged_archives_are_refused(self) -> None:
        self.assert_refused("cannot open")
        self.checkpoint.write_bytes(b"\x80\x02}q\x00.")
        self.assert_refused("not a zip archive")
        pth_fixture.save(golden_state("goldfinch"), self.checkpoint)
        whole = self.checkpoint.read_bytes()
        self.checkpoint.write_bytes(whole[: len(whole) // 2])
        self.assert_refused("not a zip archive")
        # A flipped bit in the weights does not pass the archive's checksums.
        middle = len(whole) // 2
        self.checkpoint.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        self.assert_refused("Bad CRC-32")
        pth_fixture.write_archive(self.checkpoint, b"\x80\x02}q", [])
        self.assert_refused("its pickle is damaged")
        pth_fixture.save([1, 2], self.checkpoint)
        self.assert_refused("not hold a dictionary")
        pth_fixture.save({"epoch": 3}, self.checkpoint)
        self.assert_refused("'epoch' is no tensor")

    def test_damaged_compression_is_refused(self) -> None:
        pickled = pickle.dumps({"a": "b" * 1000}, protocol=2)
        pth_fixture.write_archive(self.checkpoint, pickled, [], zipfile.ZIP_DEFLATED)
        self.assert_refused("'a' is no tensor")  # it can be read
        whole = bytearray(self.checkpoint.read_bytes())
        begin = whole.index(b"archive/data.pkl") + len("archive/data.pkl")
        whole[begin : begin + 8] = b"\xff" * 8
        self.checkpoint.write_bytes(whole)
        self.assert_refused("cannot read its member data.pkl: Error -3 while decompressing data")
        pth_fixture.write_archive(self.checkpoint, pickled, [], zipfile.ZIP_BZIP2)
        self.assert_refused("its member byteorder is compressed by method 12; expected none")

    def test_members_beyond_their_limit_are_not_read(self) -> None:
        """A thousand bytes of an archive may be a megabyte."""
        deflated = zipfile.ZIP_DEFLATED
        pth_fixture.write_archive(self.checkpoint, b"\x80\x02}.", [], deflated, byteorder=bytes(17))
        self.assert_refused("its member byteorder has 17 bytes; the limit is 16")
        pth_fixture.write_archive(self.checkpoint, bytes((64 << 20) + 1), [], deflated)
        self.assert_refused("its member data.pkl has 67108865 bytes; the limit is 67108864")
        pth_fixture.write_archive(self.checkpoint, b"\x80\x02}.", [], byteorder=b"big")
        self.assert_refused("it was saved on a big-endian machine")

    def test_tensors_outside_their_storage_are_refused(self) -> None:
        storage = pth_fixture.FakeStorage("BF16", b"\0" * 32)
        make = pth_fixture.FakeTensor
        self.assert_state_refused("ends at item 17 of a storage of 16", ln_out__bias=make((4, 4), storage, 1))
        self.assert_state_refused("overlaps itself", ln_out__bias=make((4, 4), storage, 0, (1, 1)))
        self.assert_state_refused("overlaps itself", ln_out__bias=make((1 << 40,), storage, 0, (0,)))
        self.assert_state_refused(r"strides \(-1,\)", ln_out__bias=make((4,), storage, 3, (-1,)))
        self.assert_state_refused("asks for torch.IntStorage", ln_out__bias=pth_fixture.tensor((1,), b"1234", "I32"))

    def test_storage_of_another_size_is_refused(self) -> None:
        pickled = (
            b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n"
            b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x09tQ"
            b"K\x00K\x02\x85K\x01\x85\x89}tRs."
        )
        pth_fixture.write_archive(self.checkpoint, pickled, [b"\0" * 8])
        self.assert_refused("the data of a has 8 bytes; its pickle says 36")
        pth_fixture.write_archive(self.checkpoint, pickled, [])
        self.assert_refused("the data of a is missing")

    # Tensors that make no model.

    def test_models_with_wrong_tensors_are_refused(self) -> None:
        wrong = pth_fixture.tensor((2,), b"\0" * 4)
        self.assert_state_refused("emb.weight is missing", emb__weight=None)
        self.assert_state_refused("blocks.5.ffn.value.weight is missing", blocks__5__ffn__value__weight=None)
        self.assert_state_refused(r"ln_out.bias has shape \[2\]; expected \[128\]", ln_out__bias=wrong)
        self.assert_state_refused("expected two dimensions", blocks__4__att__time_key_w1=wrong)
        self.assert_state_refused("expected 0, 1, 2", blocks__9__ln1__weight=wrong)
        self.assert_state_refused(r"GOLD layers are \[1, 4, 5\]", blocks__1__att__query__weight=wrong)

    def test_shapes_beyond_what_the_server_takes_are_refused(self) -> None:
        def zeros(*shape: int) -> pth_fixture.FakeTensor:
            return pth_fixture.tensor(shape, bytes(2 * math.prod(shape)))

        for complaint, changed in (
            ("its head_size is 32; it must be from 64 to 64", {"blocks__0__att__time_faaaa": zeros(4, 32)}),
            ("its n_embd is 96; it must be a multiple of 64", {"emb__weight": zeros(VOCAB_SIZE, 96)}),
            ("its n_embd is 65600; it must be from 64 to 65536", {"emb__weight": zeros(1, 65600)}),
            ("its vocab_size is 1048577; ", {"emb__weight": zeros((1 << 20) + 1, 1)}),
            ("its dim_att is 192; with GOLD layers it must equal n_embd 128",
             {"blocks__0__att__receptance__weight": zeros(192, 128)}),
            ("its dim_ffn is 1048577; ", {"blocks__0__ffn__key__weight": zeros((1 << 20) + 1, 1)}),
        ):
            with self.subTest(complaint):
                self.assert_state_refused(complaint, **changed)

    def test_weights_that_are_not_finite_are_refused(self) -> None:
        for bad in (b"\x80\x7f", b"\xc0\xff"):  # infinity, NaN
            self.assert_state_refused("ln_out.bias holds a NaN", ln_out__bias=pth_fixture.tensor((128,), bad * 128))

    def test_vocabularies_are_checked(self) -> None:
        pth_fixture.save(golden_state("goldfinch"), self.checkpoint)
        for text, complaint in (
            ("", "byte 0x00 is not a token"),
            (VOCABULARY + "\n", "line 259: not `id"),
            (VOCABULARY.replace("\n", "\r\n"), "line 1: it ends with CR LF"),
            (VOCABULARY.replace("66 b'A' 1\n", ""), "byte 0x41 is not a token"),
            (VOCABULARY + f"298 '{'a' * 1025}' 1025\n", "line 259: the token has 1025 bytes; the limit is 1024"),
            (VOCABULARY + "300 'ab' 2\n", "has id 300; the checkpoint has ids up to 299"),
            ("1 'a' 2\n", "line 1: the token has 1 bytes, the line says 2"),
            ("1 'a' 1\n2 exit() 1\n", "line 2: not `id"),
        ):
            self.vocabulary.write_text(text, encoding="utf-8", newline="\n")
            self.assert_refused(complaint)


if __name__ == "__main__":
    unittest.main()
