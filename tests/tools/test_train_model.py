"""The trainer's model is GoldFinch. Needs PyTorch and safetensors, and is skipped without them."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import shutil
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
HAS_TORCH = all(importlib.util.find_spec(name) for name in ("torch", "safetensors"))


@unittest.skipUnless(HAS_TORCH, "torch or safetensors is not installed: the trainer is not tested")
class TrainModelTest(unittest.TestCase):
    def setUp(self) -> None:
        sys.path.insert(0, str(ROOT / "tools" / "train"))
        self.addCleanup(sys.path.remove, str(ROOT / "tools" / "train"))

    def test_chunked_recurrence_equals_the_sequential_one(self) -> None:
        import check_golden
        import torch

        self.assertLess(check_golden.wkv_error(torch.Generator().manual_seed(1)), check_golden.TOLERANCE)

    def test_golden_logits_are_reproduced(self) -> None:
        import check_golden

        for config in sorted((ROOT / "tests" / "golden").glob("*/config.json")):
            with self.subTest(config.parent.name):
                self.assertLess(check_golden.golden_error(config.parent), check_golden.TOLERANCE)

    def test_a_config_is_read_as_the_server_reads_it(self) -> None:
        """Names that nobody knows are ignored, and of rope only the base must be there."""
        import check_golden

        with tempfile.TemporaryDirectory() as folder:
            case = Path(shutil.copytree(ROOT / "tests" / "golden" / "goldfinch-rope", Path(folder) / "rope"))
            config = json.loads((case / "config.json").read_text(encoding="utf-8"))
            config |= {"rope": {"base": config["rope"]["base"]}, "trained_by": "nobody"}
            (case / "config.json").write_text(json.dumps(config), encoding="utf-8")
            self.assertLess(check_golden.golden_error(case), check_golden.TOLERANCE)

    def test_texts_too_short_for_a_window_are_refused(self) -> None:
        import data
        import torch

        generator = torch.Generator().manual_seed(1)
        for count in (0, 3, 8, 16):
            with self.assertRaisesRegex(SystemExit, f"^train: --ctx_len=8 needs 17 training tokens; there are {count}$"):
                data.Windows(torch.arange(count), 8, 2, generator)
        windows = data.Windows(torch.arange(17), 8, 2, generator)
        for _ in range(100):  # from every offset
            self.assertEqual(windows.next().shape, (2, 9))

    def test_flags_of_which_no_model_can_be_made_are_refused(self) -> None:
        # By its path: other tests know the folder as the package `train`.
        spec = importlib.util.spec_from_file_location("train_program", ROOT / "tools" / "train" / "train.py")
        train = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(train)
        needed = ("--books=b", "--held_out=h", "--vocab=v", "--out=o", "--minutes=1")
        for flag, said in (
            ("--n_embd=100", "--n_embd is 100; it must be a multiple of 64"),
            ("--n_embd=0", "--n_embd is 0; it must be a multiple of 64"),
            ("--n_layer=1", "--n_layer is 1; it must be at least 2"),
            ("--ctx_len=1", "--ctx_len is 1; it must be at least 2"),
            ("--batch=0", "--batch is 0; it must be at least 1"),
        ):
            printed = io.StringIO()
            with (
                self.subTest(flag),
                mock.patch.object(sys, "argv", ["train", *needed, flag]),
                contextlib.redirect_stderr(printed),
            ):
                with self.assertRaises(SystemExit) as exit:
                    train.parse_args()
                self.assertEqual(exit.exception.code, 2)
                self.assertIn(said, printed.getvalue())

    def test_numbers_that_are_none_fail(self) -> None:
        """Wherever they are: Python's max() passes over a NaN that is not the first."""
        import check_golden
        import torch
        from safetensors.torch import load_file, save_file

        for name in ("logits", "long_last_logits"):
            with self.subTest(name), tempfile.TemporaryDirectory() as folder:
                case = Path(shutil.copytree(ROOT / "tests" / "golden" / "finch", Path(folder) / "finch"))
                expected = load_file(case / "expected.safetensors")
                expected[name][-1, 7] = torch.nan
                save_file(expected, case / "expected.safetensors")
                self.assertEqual(check_golden.golden_error(case), torch.inf)
                printed = io.StringIO()
                with mock.patch.object(sys, "argv", ["check_golden", folder]), contextlib.redirect_stdout(printed):
                    self.assertEqual(check_golden.main(), 1)
                self.assertIn("finch: max_abs_error inf  FAILED\n", printed.getvalue())

        wkv_chunked = check_golden.wkv_chunked
        for bad in (1, 64):
            def damaged(*inputs: object) -> torch.Tensor:
                return wkv_chunked(*inputs) * (torch.nan if inputs[-1] == bad else 1)

            with self.subTest(bad), mock.patch.object(check_golden, "wkv_chunked", damaged):
                self.assertEqual(check_golden.wkv_error(torch.Generator().manual_seed(1)), torch.inf)


if __name__ == "__main__":
    unittest.main()
