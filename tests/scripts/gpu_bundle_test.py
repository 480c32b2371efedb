"""scripts/gpu_bundle.sh: what it makes runs elsewhere, from a folder of its own and with an empty environment.

    gpu_bundle_test.py BUILD_DIR
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else None
# The other machine's: of the C library, and of CUDA.
THEIRS = re.compile(r"(ld-linux|lib(c|m|pthread|dl|rt|cuda|cudart|cublas|cublasLt)\.so)")


def output_of(*command: str | Path) -> str:
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


@unittest.skipUnless(shutil.which("patchelf"), "patchelf is not installed: the bundle is not tested")
class GpuBundleTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        made = Path(folder.name) / "made"
        data = Path(folder.name) / "data"
        for case in ("small", "too-large"):
            shutil.copytree(ROOT / "tests" / "golden" / "finch", data / "golden" / case)
        # One that fits beside all the programs, and one that cannot.
        os.truncate(data / "golden" / "small" / "model.safetensors", 1000)
        os.truncate(data / "golden" / "small" / "expected.safetensors", 1000)
        os.truncate(data / "golden" / "too-large" / "model.safetensors", 60_000_000)
        cls.environment = os.environ | {"GOLDFINCH_TEST_DATA": str(data)}
        cls.made = subprocess.run([ROOT / "scripts" / "gpu_bundle.sh", BUILD, "made"], check=True, text=True,
                                  capture_output=True, env=cls.environment, cwd=folder.name)
        cls.bundle = Path(folder.name) / "elsewhere" / "made"
        cls.bundle.parent.mkdir()
        output_of("tar", "-C", cls.bundle.parent, "-xzf", f"{made}.tar.gz")
        shutil.rmtree(made)

    def run_here(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(part) for part in command], capture_output=True, text=True, env={}, cwd="/")

    def test_every_library_it_asks_for_is_in_it_or_is_the_c_librarys_or_cudas(self) -> None:
        libraries = {path.name for path in (self.bundle / "lib").iterdir()}
        self.assertLessEqual({"libstdc++.so.6", "libgcc_s.so.1"}, libraries)
        for path in (*(self.bundle / "bin").iterdir(), *(self.bundle / "lib").iterdir()):
            dynamic = output_of("readelf", "-d", path)
            for soname in re.findall(r"NEEDED\).*\[(.*)\]", dynamic):
                self.assertTrue(soname in libraries or THEIRS.match(soname), f"{path.name} needs {soname}")
            expected = "$ORIGIN/../lib" if path.parent.name == "bin" else "$ORIGIN"
            self.assertEqual(re.findall(r"RUNPATH\).*\[(.*)\]", dynamic), [expected], path.name)

    def test_the_loader_finds_them_there(self) -> None:
        for program in (self.bundle / "bin").iterdir():
            for line in self.run_here("/usr/bin/ldd", program).stdout.splitlines():
                if "=>" in line and not THEIRS.match(line.strip()):
                    self.assertIn(f"=> {self.bundle}", line.replace("/bin/../lib", ""), program.name)

    def test_it_computes_what_it_should_on_the_cpu(self) -> None:
        case = self.bundle / "tests" / "golden" / "finch"
        result = self.run_here(self.bundle / "bin" / "goldfinch", "verify", case, case / "expected.safetensors",
                               "--backend=cpu", "--threads=1")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("greedy_agreement 32/32", result.stdout)
        result = self.run_here(self.bundle / "gpu_check.sh", "--backend=cpu", "--steps=tests",
                               f"--out={self.bundle.parent / 'out'}")
        self.assertEqual(result.returncode, 0, result.stderr)

    def test_it_says_which_cublas_its_programs_ask_for(self) -> None:
        said = (self.bundle / "bundle.txt").read_text(encoding="utf-8")
        major = re.search(r"a driver for CUDA (\d+)\.\d+\n", said)
        self.assertIsNotNone(major, said)
        self.assertIn(f"\ncublas: libcublasLt.so.{major[1]}\n", said)

    def test_golden_cases_of_the_test_data_are_in_it_where_they_fit(self) -> None:
        own = {path.name for path in (ROOT / "tests" / "golden").iterdir() if path.is_dir()}
        self.assertEqual({path.name for path in (self.bundle / "tests" / "golden").iterdir()}, own | {"small"})
        self.assertRegex(self.made.stderr, "too-large/ is left out: with it the bundle would be over 60000000 bytes")
        without = self.bundle.parent / "without"
        subprocess.run([ROOT / "scripts" / "gpu_bundle.sh", "--no_test_data", BUILD, without], check=True,
                       capture_output=True, env=self.environment)
        self.assertEqual({path.name for path in (without / "tests" / "golden").iterdir()}, own)

    def test_without_a_gpu_each_program_says_so(self) -> None:
        case = self.bundle / "tests" / "golden" / "finch"
        result = self.run_here(self.bundle / "bin" / "goldfinch", "verify", case, case / "expected.safetensors",
                               "--backend=cuda")
        if result.returncode == 0:
            self.skipTest("this machine has a GPU")
        self.assertRegex(result.stderr, "^goldfinch verify: no CUDA device: ")
        result = self.run_here(self.bundle / "bin" / "goldfinch-bench", "--shape=3x64", "--backend=cuda")
        self.assertRegex(result.stderr, "goldfinch-bench: no CUDA device: ")
        result = self.run_here(self.bundle / "bin" / "gpu_test", "--gtest_filter=*/cuda_t1:*_cuda_f32")
        self.assertEqual(result.returncode, 0)
        self.assertRegex(result.stdout, r"\[  SKIPPED \] \d+ tests")
        result = self.run_here(self.bundle / "gpu_check.sh", "--out=/nowhere")
        self.assertEqual(result.returncode, 2)
        self.assertRegex(result.stderr, "^gpu_check: no CUDA device: [^\n]*\n$")

    def test_a_folder_that_is_no_bundle_is_left_alone(self) -> None:
        result = subprocess.run([ROOT / "scripts" / "gpu_bundle.sh", BUILD, ROOT / "tests"], capture_output=True,
                                text=True)
        self.assertEqual(result.returncode, 1)
        self.assertIn("is there and is no bundle", result.stderr)
        self.assertTrue((ROOT / "tests" / "golden").is_dir())


if __name__ == "__main__":
    if BUILD is None:
        sys.exit("usage: gpu_bundle_test.py BUILD_DIR")
    unittest.main(argv=sys.argv[:1])
