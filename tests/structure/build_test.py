"""What CMake makes of the options it is given, and what it installs.

    build_test.py CMAKE GENERATOR BUILD_FOLDER
"""

import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
CMAKE, GENERATOR, BUILD = sys.argv[1:4] if len(sys.argv) >= 4 else ("cmake", "Ninja", "")


class ConfigureTest(unittest.TestCase):
    def configure(self, folder: str, *options: str) -> subprocess.CompletedProcess:
        """Of the engine alone, which asks for the fewest packages."""
        return subprocess.run(
            [CMAKE, "-S", ROOT, "-B", folder, "-G", GENERATOR, "-DGOLDFINCH_SERVER=OFF", "-DGOLDFINCH_TESTS=OFF",
             "-DGOLDFINCH_BENCH=OFF", *options], capture_output=True, text=True)

    def test_without_a_preset_the_build_is_a_release(self):
        for given, expected in ((), "Release"), (("-DCMAKE_BUILD_TYPE=Debug",), "Debug"):
            with self.subTest(expected), tempfile.TemporaryDirectory() as folder:
                configured = self.configure(folder, "-DGOLDFINCH_CUDA=OFF", *given)
                self.assertEqual(configured.returncode, 0, configured.stderr)
                cache = (pathlib.Path(folder) / "CMakeCache.txt").read_text(encoding="utf-8")
                self.assertEqual(re.search(r"^CMAKE_BUILD_TYPE:\w+=(.*)$", cache, re.MULTILINE)[1], expected)

    def test_cuda_that_is_asked_for_with_sanitizers_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            configured = self.configure(folder, "-DGOLDFINCH_CUDA=ON", "-DGOLDFINCH_SANITIZE=address")
            self.assertNotEqual(configured.returncode, 0)
            self.assertIn("GOLDFINCH_CUDA is ON and GOLDFINCH_SANITIZE is address", configured.stderr)


class InstallTest(unittest.TestCase):
    @unittest.skipUnless(BUILD and (pathlib.Path(BUILD) / "bin/goldfinch-server").exists(), "the server is not built")
    def test_the_two_programs_are_installed_and_run_from_there(self):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([CMAKE, "--install", BUILD, "--prefix", folder], check=True, capture_output=True)
            installed = {str(path.relative_to(folder)) for path in pathlib.Path(folder).rglob("*") if path.is_file()}
            self.assertEqual(installed, {"bin/goldfinch-server", "bin/goldfinch"})
            for name in installed:
                told = subprocess.run([f"{folder}/{name}", "--version"], check=True, capture_output=True, text=True)
                self.assertTrue(told.stdout.startswith(pathlib.Path(name).name + " "), told.stdout)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
