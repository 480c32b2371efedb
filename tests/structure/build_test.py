"""What CMake makes of the options it is given.

    build_test.py CMAKE GENERATOR
"""

import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
CMAKE, GENERATOR = sys.argv[1:3] if len(sys.argv) >= 3 else ("cmake", "Ninja")


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


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
