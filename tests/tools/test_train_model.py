"""The trainer's model is GoldFinch. Needs PyTorch and safetensors, and is skipped without them."""

from __future__ import annotations

import importlib.util
import sys
import unittest
from pathlib import Path

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


if __name__ == "__main__":
    unittest.main()
