"""The peer in bench/peers is GoldFinch. Needs PyTorch and safetensors, and is skipped without them."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import json
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "bench" / "peers"
HAS_TORCH = all(importlib.util.find_spec(name) for name in ("torch", "safetensors"))


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PEERS / "torch_reference.py"), "--device=cpu", "--threads=1", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


class SourceTest(unittest.TestCase):
    def test_it_parses(self) -> None:
        for path in PEERS.glob("*.py"):
            ast.parse(path.read_text(encoding="utf-8"), path.name)


@unittest.skipUnless(HAS_TORCH, "torch or safetensors is not installed: the peer is not tested")
class TorchReferenceTest(unittest.TestCase):
    def rows(self, *flags: str) -> list[dict[str, object]]:
        result = run("--json", *flags)
        self.assertEqual(result.returncode, 0, result.stderr)
        return [json.loads(line) for line in result.stdout.splitlines()]

    def test_the_smallest_golden_cases_are_reproduced(self) -> None:
        """float32 needs far less than the tolerance of `goldfinch verify`."""
        rows = self.rows(f"--verify={ROOT / 'tests' / 'golden'}", "--case=^finch")
        self.assertEqual([row["name"] for row in rows], ["finch", "finch-upgrade"])
        for row in rows:
            self.assertTrue(row["ok"], row)
            self.assertLess(row["max_error"], 1e-4)
            self.assertEqual(row["agreed"], row["checked"])

    def test_bfloat16_is_within_its_tolerance(self) -> None:
        (row,) = self.rows(f"--verify={ROOT / 'tests' / 'golden'}", "--case=^finch$", "--dtype=bf16")
        self.assertTrue(row["ok"], row)
        self.assertGreater(row["max_error"], 1e-4)

    def test_a_case_beyond_the_tolerance_fails(self) -> None:
        from safetensors.torch import load_file, save_file

        with tempfile.TemporaryDirectory() as folder:
            case = Path(shutil.copytree(ROOT / "tests" / "golden" / "finch", Path(folder) / "off"))
            expected = load_file(case / "expected.safetensors")
            expected["long_last_logits"][-1, 7] += 0.01
            save_file(expected, case / "expected.safetensors")
            result = run(f"--verify={folder}")
        self.assertEqual(result.returncode, 1)
        self.assertEqual(result.stdout, "off: max_abs_error 1.000e-02 (tolerance 2e-03, f32), "
                         "greedy_agreement 32/32  FAILED\n")

    def test_a_config_is_read_as_the_server_reads_it(self) -> None:
        """Names that nobody knows are ignored, and of rope only the base must be there."""
        with tempfile.TemporaryDirectory() as folder:
            case = Path(shutil.copytree(ROOT / "tests" / "golden" / "goldfinch-rope", Path(folder) / "rope"))
            config = json.loads((case / "config.json").read_text(encoding="utf-8"))
            config |= {"rope": {"base": config["rope"]["base"]}, "trained_by": "nobody"}
            (case / "config.json").write_text(json.dumps(config), encoding="utf-8")
            (row,) = self.rows(f"--verify={folder}")
        self.assertTrue(row["ok"], row)

    def test_a_folder_without_cases_is_an_error(self) -> None:
        result = run("--verify=/nowhere")
        self.assertEqual(result.returncode, 1)
        self.assertIn("no golden case in /nowhere", result.stderr)

    def test_each_case_is_a_figure_of_the_benchs_name(self) -> None:
        rows = self.rows("--shape=3x64", "--prefill=100", "--contexts=64,100", "--batches=1,2", "--steps=2")
        self.assertEqual([row["name"] for row in rows], [
            "prefill/t:100", "decode/ctx:64/batch:1", "decode/ctx:64/batch:2",
            "decode/ctx:100/batch:1", "decode/ctx:100/batch:2"])
        for row in rows:
            self.assertGreater(row["measured"], 0)
            self.assertGreater(row["peak_bytes"], 1 << 20)

    def test_flags_that_are_wrong_are_refused(self) -> None:
        sys.path.insert(0, str(PEERS))
        self.addCleanup(sys.path.remove, str(PEERS))
        import torch_reference

        for flag, said in (
            ("--shape=12by768", "--shape is 12by768; it must be LAYERSxWIDTH"),
            ("--shape=12x100", "--shape is 12x100; it must be LAYERSxWIDTH"),
            ("--shape=1x64", "--shape is 1x64; it must be LAYERSxWIDTH"),
            ("--device=foo", "argument --device: foo is no device; it must be cpu, cuda or cuda:N"),
            ("--device=cuda:99", "GPUs, and no cuda:99"),
            ("--steps=0", "argument --steps: 0 is no whole number from 1 on"),
            ("--threads=-1", "argument --threads: -1 is no whole number from 0 on"),
        ):
            printed = io.StringIO()
            with self.subTest(flag), contextlib.redirect_stderr(printed):
                with self.assertRaises(SystemExit) as exit:
                    torch_reference.parse_args([flag])
                self.assertEqual(exit.exception.code, 2)
                self.assertIn(said, printed.getvalue())


if __name__ == "__main__":
    unittest.main()
