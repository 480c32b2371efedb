"""scripts/gpu_check.sh, all of it but the GPU: on the CPU, with programs of this build and with ones that fail.

    gpu_check_test.py BIN_DIR
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import unittest.mock
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "gpu_check.sh"
BIN = Path(sys.argv[1] if len(sys.argv) > 1 else "")
CASES = "^prefill/t:1024$|^decode/batch:1$"
SMALL = ("--shapes=3x64", f"--cases={CASES}", "--case_seconds=1", "--sessions=2")

NO_GPU = """#!/bin/sh
echo "goldfinch verify: no CUDA device: the driver has none" >&2
exit 1
"""
# A device on which nothing is right: one case is off, one hangs, and one test fails.
VERIFY = """#!/bin/sh
case "$*" in
  *--chunk=7*) exec sleep 60 ;;
  *--chunk=64*) echo "max_abs_error 5.000e-01 (tolerance 2e-03, cuda)"; echo "greedy_agreement 3/32"; exit 1 ;;
esac
echo "max_abs_error 1.000e-06 (tolerance 2e-03, cuda)"; echo "greedy_agreement 32/32"
"""
TESTS = """#!/bin/sh
echo "[  FAILED  ] Backends/GemmTest.Sums/cuda_t1"; echo "[  PASSED  ] 3 tests."; exit 1
"""
ALL_SKIPPED = """#!/bin/sh
echo "[  PASSED  ] 0 tests."; echo "[  SKIPPED ] 68 tests, listed below:"
"""
BENCH = """#!/bin/sh
echo "numerics id: cuda-of-a-test" >&2
echo '{"limit":2.0,"measured":1234.5,"name":"decode/batch:1","ratio":617.2,"unit":"tokens/s"}'
"""
# Of some shapes every case is too large, as on a small device.
SKIPPING_BENCH = BENCH.replace("#!/bin/sh\n", """#!/bin/sh
case "$*" in
  *--shape=24x2048*--cases=^resident/*)
    echo "resident/t:65536: skipped: needs 9 GB; --memory_bytes allows 8" >&2; exit ;;
  *--shape=24x2048*) exit ;;
esac
""")
SKIPPING_TORCH = """#!/bin/sh
case "$*" in
  *--shape*) echo "prefill/t:1024: skipped: needs 9 GB; 8 GB are free" >&2 ;;
esac
"""
NVIDIA_SMI = """#!/bin/sh
case "$*" in
  *=memory.used*) echo 4321 ;;
  *=memory.total*) echo 81559 ;;
  *=name*) echo "A Device of a Test" ;;
  *=driver_version*) echo 580.1 ;;
  *=clocks.sm,clocks.mem\\ *) echo "1980, 2619" ;;
  *) echo 7 ;;
esac
"""
# memcheck finds nothing; racecheck may not attach.
SANITIZER = """#!/bin/sh
tool=$2
shift 4
[ "$tool" = memcheck ] || { echo "========= Error: Operation not permitted"; exit 1; }
"$@"; code=$?
echo "========= ERROR SUMMARY: 0 errors"; exit $code
"""
SLOW_SANITIZER = """#!/bin/sh
echo "========= COMPUTE-SANITIZER"
[ -z "$FOUND" ] || echo "$FOUND"
exec sleep 60
"""
PASSING = """#!/bin/sh
echo "[  PASSED  ] 5 tests."
"""
NO_TORCH = "#!/bin/sh\nexit 1\n"
# As PyTorch would answer: it is there, and it has figures of the same case.
TORCH = """#!/bin/sh
case "$*" in
  *--shape*) echo '{"name": "decode/batch:1", "measured": 617.25, "unit": "tokens/s", "peak_bytes": 3000000}' ;;
esac
"""


class GpuCheckTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.golden = self.folder / "golden"
        self.golden.mkdir()
        (self.golden / "finch").symlink_to(ROOT / "tests" / "golden" / "finch")

    def check(self, script: Path, *flags: str) -> subprocess.CompletedProcess[str]:
        command = [str(script), f"--golden={self.golden}", f"--out={self.folder / 'out'}", *flags]
        path = {"PATH": f"{script.parent / 'bin'}:{os.environ['PATH']}"}
        return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=self.folder,
                              env=os.environ | path)

    def report(self) -> str:
        return (self.folder / "out" / "report.md").read_text(encoding="utf-8")

    def programs(self, **scripts: str) -> Path:
        """The layout of a bundle, with programs of a few lines."""
        bundle = self.folder / "bundle"
        (bundle / "bin").mkdir(parents=True)
        (bundle / "bench" / "peers").mkdir(parents=True)
        shutil.copy(SCRIPT, bundle)
        (bundle / "bundle.txt").write_text("commit: 1234abc\n")
        for name, text in scripts.items():
            path = bundle / "bin" / name.replace("goldfinch_", "goldfinch-")
            path.write_text(text)
            path.chmod(0o755)
        return bundle

    def test_the_whole_script_on_the_cpu(self) -> None:
        result = self.check(SCRIPT, "--backend=cpu", f"--bin={BIN}", *SMALL, "--python=no-such-python")
        self.assertEqual(result.returncode, 0, result.stderr + self.report())
        report = self.report()
        self.assertTrue(report.startswith("# GPU check: passed, 13 commands\n"), report)
        self.assertRegex(report, r"\| `gpu_test --gtest_filter=.*` \| 0 \| \d+ \| \d+ passed \|")
        self.assertIn("| `compute-sanitizer` | - | - | not available: it needs a GPU |", report)
        self.assertIn("| 10 of 10 within tolerance |", report)
        for dtype in ("f32", "bf16"):
            for cut in ("all | 1", "1 | 1", "7 | 1", "64 | 1", "16 | 5"):
                self.assertRegex(report, rf"\| finch \| {dtype} \| {cut} \| [\d.e-]+ \| 32/32 \| 0 \|")
        self.assertIn("| `torch_reference.py` | - | - | not available: no no-such-python |", report)
        for name in ("prefill/t:1024", "decode/batch:1"):
            self.assertRegex(report, rf"\| {name} \| [\d.]+ \| tokens/s \| [\d.]+ \| - \| - \| - \|")
        figures = [json.loads(line) for line in (self.folder / "out" / "figures.jsonl").read_text().splitlines()]
        self.assertEqual([(row["program"], row["shape"], row["name"]) for row in figures],
                         [("goldfinch", "3x64", name) for name in (
                             "prefill/t:1024", "decode/batch:1", "resident/t:65536", "resident_load/t:65536",
                             "resident_answer/t:65536")])
        self.assertIn("| resident/t:65536 | 2.0 | sessions | - | - | - | - |", report)
        self.assertIn("exit 0 after", (self.folder / "out" / "log.txt").read_text())

    def test_without_a_gpu_it_says_so_in_a_line(self) -> None:
        result = self.check(self.programs(goldfinch=NO_GPU) / "gpu_check.sh")
        self.assertEqual(result.returncode, 2)
        self.assertEqual(result.stderr, "gpu_check: no CUDA device: the driver has none\n")
        self.assertFalse((self.folder / "out").exists())

    def test_what_fails_and_what_hangs_is_counted_and_shown_and_the_rest_runs(self) -> None:
        bundle = self.programs(goldfinch=VERIFY, gpu_test=TESTS, goldfinch_bench=BENCH, python=TORCH)
        result = self.check(bundle / "gpu_check.sh", "--steps=tests,verify,bench,peer", "--step_seconds=1",
                            "--shapes=12x768", f"--python={bundle / 'bin' / 'python'}")
        self.assertEqual(result.returncode, 1)
        report = self.report()
        self.assertTrue(report.startswith("# GPU check: FAILED, 5 of 15\n"), report)
        self.assertIn("| build | 1234abc |", report)
        self.assertRegex(report, r"\| `gpu_test .*` \| 1 \| \d+ \| FAILED \|")
        self.assertRegex(report, r"\| `goldfinch verify --backend=cuda` \| 1 \| \d+ \| FAILED: 4 of 10 \|")
        self.assertIn("| finch | f32 | 64 | 1 | 5.000e-01 | 3/32 | 1 |", report)
        self.assertIn("| finch | f32 | 7 | 1 |  |  | 124 |", report)
        self.assertIn("## Failed: `goldfinch verify finch --backend=cuda --compute_dtype=f32", report)
        self.assertIn("[  FAILED  ] Backends/GemmTest.Sums/cuda_t1", report)
        # Beside the limit and the peer.
        self.assertIn("| decode/batch:1 | 1234 | tokens/s | 617.20 | 617 | 3.0 | 2.00 |", report)

    def test_the_device_and_what_the_sanitizer_says_of_it(self) -> None:
        programs = {"nvidia-smi": NVIDIA_SMI, "compute-sanitizer": SANITIZER}
        bundle = self.programs(goldfinch=VERIFY, gpu_test=PASSING, goldfinch_bench=BENCH, **programs)
        result = self.check(bundle / "gpu_check.sh", "--steps=sanitizer,bench", "--shapes=24x2048")
        self.assertEqual(result.returncode, 0, result.stderr)
        report = self.report()
        for row in ("device | A Device of a Test", "driver | 580.1", "memory, MiB | 81559"):
            self.assertIn(f"| {row} |", report)
        for tests in (r"\*/cuda_t1\*.*:-.*\*FunctionsTest\*.*", r"\*LogitsOfEveryPromptPosition\*/goldfinch_cuda_bf16"):
            self.assertRegex(report, rf"`compute-sanitizer --tool memcheck .*{tests}` \| 0 \| \d+ \| 5 passed \|")
        self.assertIn("| `compute-sanitizer --tool racecheck` | - | - | not permitted: ========= Error: Operation not "
                      "permitted |", report)
        self.assertIn("| ok, at most 4321 MiB of the device in use, cuda-of-a-test |", report)
        self.assertIn(f"--memory_bytes={81559 * 9 * (1 << 20) // 10}", (self.folder / "out" / "log.txt").read_text())

    def test_a_sanitizer_that_takes_long_has_failed_only_if_it_found_something(self) -> None:
        bundle = self.programs(goldfinch=VERIFY, **{"nvidia-smi": NVIDIA_SMI, "compute-sanitizer": SLOW_SANITIZER})
        for found, said in (("", "not finished in 1 s, with nothing found"),
                            ("========= Invalid __global__ read of size 4 bytes", "FAILED: ended after 1 s")):
            with self.subTest(found=found), unittest.mock.patch.dict(os.environ, FOUND=found):
                result = self.check(bundle / "gpu_check.sh", "--steps=sanitizer", "--step_seconds=1")
                self.assertEqual(result.returncode, 1 if found else 0, result.stderr)
                self.assertEqual(self.report().count(f"| {said} |"), 4)

    def test_cublas_is_found_where_the_loader_does_not_look(self) -> None:
        self.find_cublas(13, "bundle.txt", "commit: 1234abc\n")  # a bundle that does not say

    def test_cublas_is_of_the_version_that_the_bundle_says(self) -> None:
        self.find_cublas(97, "bundle.txt", "commit: 1234abc\ncublas: libcublasLt.so.97\n")

    def test_cublas_is_of_the_version_that_the_build_was_configured_with(self) -> None:
        self.find_cublas(98, "CMakeFiles/3.25.1/CMakeCUDACompiler.cmake",
                         'set(CMAKE_CUDA_COMPILER_VERSION "98.1.80")\n')

    def find_cublas(self, major: int, file: str, text: str) -> None:
        """Where `file` of the programs' folder has `text`, `major` is looked for, and no other one is taken."""
        bundle = self.programs(goldfinch=VERIFY, gpu_test='#!/bin/sh\necho "looks in $LD_LIBRARY_PATH"\nexit 1\n')
        (bundle / "bundle.txt").unlink()
        (bundle / file).parent.mkdir(parents=True, exist_ok=True)
        (bundle / file).write_text(text)
        other = self.folder / "other" / "libcublasLt.so.12"
        library = self.folder / "site" / "nvidia" / f"cu{major}" / "lib" / f"libcublasLt.so.{major}"
        other.parent.mkdir()
        other.touch()
        library.parent.mkdir(parents=True)
        library.touch()
        python = bundle / "bin" / "python"
        python.write_text(f"#!/bin/sh\necho {other.parent} {library.parent}\n")
        python.chmod(0o755)
        # As on a machine whose loader knows none and that has no toolkit.
        ldconfig = bundle / "bin" / "ldconfig"
        ldconfig.write_text("#!/bin/sh\n")
        ldconfig.chmod(0o755)
        self.check(bundle / "gpu_check.sh", "--steps=tests", f"--python={python}")
        found = re.search(r"\| cuBLASLt \| (\S+) \|", self.report())
        self.assertIsNotNone(found)
        folder = Path(found[1]).parent
        self.assertEqual(Path(found[1]).name, library.name)
        self.assertTrue(folder == library.parent or str(folder).startswith("/usr/local/cuda"), found[1])
        self.assertIn(f"looks in {folder}", (self.folder / "out" / "log.txt").read_text())

    def test_another_device_is_that_for_everything(self) -> None:
        """The second of those that are visible, which is number 6 on the bus."""
        gpu_test = 'echo "gpu_test sees $CUDA_VISIBLE_DEVICES"\n'
        say = 'echo "$(basename "$0") sees $CUDA_VISIBLE_DEVICES: $*" >>"$SAID"\n'
        smi = "#!/bin/sh\n" + say
        bundle = self.programs(goldfinch=VERIFY, gpu_test=PASSING + gpu_test, goldfinch_bench=BENCH + say,
                               **{"nvidia-smi": smi, "python3": TORCH + say})
        said = self.folder / "said.txt"
        with unittest.mock.patch.dict(os.environ, {"CUDA_VISIBLE_DEVICES": "4,6", "SAID": str(said)}):
            self.check(bundle / "gpu_check.sh", "--device=1", "--steps=tests,bench,peer", *SMALL)
        log = (self.folder / "out" / "log.txt").read_text(encoding="utf-8")
        self.assertIn("\ngpu_test sees 6\n", log)
        lines = said.read_text(encoding="utf-8").splitlines()
        self.assertTrue(any(line.startswith("nvidia-smi sees 4,6: -i 6 --query-gpu=name") for line in lines), lines)
        self.assertFalse(any("nvidia-smi" in line and "-i 6 " not in line for line in lines), lines)
        self.assertTrue(any(line.startswith("goldfinch-bench sees 4,6: ") and "--device=1 " in line for line in lines))
        self.assertTrue(any("--shape=3x64 --device=cuda:1 " in line for line in lines), lines)

    def test_tests_that_were_all_skipped_have_not_passed(self) -> None:
        bundle = self.programs(goldfinch=VERIFY, gpu_test=ALL_SKIPPED)
        result = self.check(bundle / "gpu_check.sh", "--steps=tests")
        self.assertEqual(result.returncode, 1)
        self.assertIn("# GPU check: FAILED, 1 of 1\n", self.report())

    def test_the_peer_has_the_threads_that_the_bench_has(self) -> None:
        """On a CPU: all of them for a real shape, one for a tiny one, and the report says how many."""
        programs = {"nproc": "#!/bin/sh\necho 6\n"}
        bundle = self.programs(goldfinch=VERIFY, goldfinch_bench=BENCH, python=TORCH, **programs)
        flags = ("--steps=bench,sessions,peer", "--shapes=24x2048,3x64", f"--python={bundle / 'bin' / 'python'}")
        self.check(bundle / "gpu_check.sh", "--backend=cpu", *flags)
        log = (self.folder / "out" / "log.txt").read_text(encoding="utf-8")
        for shape, threads in (("24x2048", 6), ("3x64", 1)):
            command = rf"^\$ .*/(goldfinch-bench|torch_reference\.py) --shape={shape} .*--threads=(\d+)"
            expected = [(name, str(threads)) for name in ("goldfinch-bench", "goldfinch-bench", "torch_reference.py")]
            self.assertEqual(re.findall(command, log, re.MULTILINE), expected)
            self.assertIn(f"## Speed, {shape}, random bf16 weights, --threads={threads}\n", self.report())
        # What a GPU computes is not held beside a number of threads.
        self.check(bundle / "gpu_check.sh", *flags)
        self.assertNotIn("--threads", (self.folder / "out" / "log.txt").read_text(encoding="utf-8") + self.report())

    def test_cases_that_were_all_skipped_are_no_failure_and_no_figures_are_one(self) -> None:
        bundle = self.programs(goldfinch=VERIFY, goldfinch_bench=SKIPPING_BENCH, python=SKIPPING_TORCH)
        flags = ("--steps=sessions,peer", "--shapes=12x768,24x2048", f"--python={bundle / 'bin' / 'python'}")
        result = self.check(bundle / "gpu_check.sh", *flags)
        self.assertEqual(result.returncode, 0, result.stderr)
        for row in ("goldfinch-bench --shape=24x2048 --backend=cuda --cases=^resident/ --sessions=4000` | - | - | "
                    "skipped: needs 9 GB; --memory_bytes allows 8 |",
                    "torch_reference.py --shape=24x2048 --device=cuda` | - | - | skipped: needs 9 GB; 8 GB are free |"):
            self.assertIn(row, self.report())
        # Without a word of why there is none.
        result = self.check(bundle / "gpu_check.sh", "--steps=bench", "--shapes=24x2048")
        self.assertEqual(result.returncode, 1)
        self.assertRegex(self.report(), r"`goldfinch-bench --shape=24x2048 .*` \| 0 \| \d+ \| FAILED \|")

    def test_a_python_without_torch_is_no_failure(self) -> None:
        bundle = self.programs(goldfinch=VERIFY, python=NO_TORCH)
        result = self.check(bundle / "gpu_check.sh", "--steps=peer", f"--python={bundle / 'bin' / 'python'}")
        self.assertEqual(result.returncode, 0)
        self.assertIn("has no torch with safetensors", self.report())

    def test_arguments_that_are_wrong_are_refused(self) -> None:
        for flags, said in (
            (("--backend=gpu",), "unknown argument --backend=gpu"),
            (("--steps=tests,dance",), "there is no step dance"),
            (("--golden=/nowhere",), "no golden case in /nowhere"),
            (("--bin=/nowhere",), "no goldfinch in /nowhere: build it"),  # though there is one in the bundle
        ):
            result = self.check(self.programs(goldfinch=VERIFY) / "gpu_check.sh", *flags)
            self.assertEqual(result.returncode, 64)
            self.assertIn(f"gpu_check: {said}", result.stderr)
            shutil.rmtree(self.folder / "bundle")

    def test_every_script_parses(self) -> None:
        for path in sorted((ROOT / "scripts").glob("*.sh")):
            subprocess.run(["bash", "-n", str(path)], check=True)


if __name__ == "__main__":
    if not BIN.name:
        sys.exit("usage: gpu_check_test.py BIN_DIR")
    unittest.main(argv=sys.argv[:1])
