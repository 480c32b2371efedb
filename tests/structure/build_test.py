"""What CMake makes of the options it is given, and what it installs.

    build_test.py CMAKE GENERATOR BUILD_FOLDER
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
CMAKE, GENERATOR, BUILD = sys.argv[1:4] if len(sys.argv) >= 4 else ("cmake", "Ninja", "")
NVCC = pathlib.Path("/usr/local/cuda/bin/nvcc")


class ConfigureTest(unittest.TestCase):
    def configure(self, folder: str, *options: str, **environment: str) -> subprocess.CompletedProcess:
        """Of the engine alone, which asks for the fewest packages."""
        return subprocess.run(
            [CMAKE, "-S", ROOT, "-B", folder, "-G", GENERATOR, "-DGOLDFINCH_SERVER=OFF", "-DGOLDFINCH_TESTS=OFF",
             "-DGOLDFINCH_BENCH=OFF", *options], capture_output=True, text=True,
            env=os.environ | environment)

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


    @unittest.skipUnless(NVCC.exists(), "CUDA is not installed")
    def test_a_cuda_that_is_too_old_is_as_good_as_none_unless_it_is_asked_for(self):
        with tempfile.TemporaryDirectory() as tools:
            nvcc = pathlib.Path(tools) / "nvcc"
            # It does not know architectures that came later.
            nvcc.write_text("#!/bin/sh\n"
                            "case $* in\n"
                            "  *--version*) echo 'Cuda compilation tools, release 11.7, V11.7.99'; exit ;;\n"
                            "  *compute_90*) exit 1 ;;\n"
                            f"esac\nexec {NVCC} \"$@\"\n", encoding="utf-8")
            nvcc.chmod(0o755)
            for given, told in (("AUTO", "CUDA backend: OFF; there"), ("ON", "GOLDFINCH_CUDA is ON, but there")):
                with self.subTest(given), tempfile.TemporaryDirectory() as folder:
                    configured = self.configure(folder, f"-DGOLDFINCH_CUDA={given}", CUDACXX=nvcc)
                    self.assertEqual(configured.returncode == 0, given == "AUTO", configured.stderr)
                    text = re.sub(r"\s+", " ", configured.stdout + configured.stderr)
                    self.assertIn(f"{told} is no CUDA 12.3 or later; {nvcc} is of 11.7.99", text)

    def test_an_nvcc_that_does_not_work_is_as_good_as_none_unless_it_is_asked_for(self):
        for given in ("AUTO", "ON"):
            with self.subTest(given), tempfile.TemporaryDirectory() as folder:
                configured = self.configure(folder, f"-DGOLDFINCH_CUDA={given}", CUDACXX="/bin/false")
                self.assertEqual(configured.returncode == 0, given == "AUTO", configured.stderr)
                self.assertIn("there is no nvcc that works", configured.stdout + configured.stderr)


class RevisionTest(unittest.TestCase):
    """The source that names the build, which each build writes."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.source = pathlib.Path(self.folder.name) / "source"
        self.source.mkdir()
        self.written = pathlib.Path(self.folder.name) / "build.cc"

    def write(self, revision: str = "") -> subprocess.CompletedProcess:
        return subprocess.run(
            [CMAKE, "-DVERSION=1.2.3", f"-DREVISION={revision}", f"-DSOURCE={self.source}",
             f"-DTEMPLATE={ROOT}/server/build.cc.in", f"-DOUTPUT={self.written}", "-P", ROOT / "cmake/Revision.cmake"],
            capture_output=True, text=True)

    def build(self) -> str:
        return re.search(r'kBuild\[\] = "(.*)";', self.written.read_text(encoding="utf-8"))[1]

    def git(self, *arguments: str) -> str:
        return subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=self.source,
                              check=True, capture_output=True, text=True).stdout.strip()

    def test_without_a_commit_it_is_the_version(self):
        self.assertEqual(self.write().returncode, 0)
        self.assertEqual(self.build(), "1.2.3")

    def test_it_is_the_commit_that_was_given(self):
        self.assertEqual(self.write("v1-2-gabc-dirty").returncode, 0)
        self.assertEqual(self.build(), "1.2.3+v1-2-gabc-dirty")
        self.assertNotEqual(self.write('a"b').returncode, 0)

    @unittest.skipUnless(shutil.which("git"), "git is not installed")
    def test_it_is_the_commit_that_is_checked_out(self):
        self.git("init", "-q")
        (self.source / "file").write_text("1")
        self.git("add", "file")
        self.git("commit", "-q", "-m", "first")
        commit = self.git("rev-parse", "--short", "HEAD")
        self.write()
        self.assertEqual(self.build(), f"1.2.3+{commit}")
        (self.source / "file").write_text("22")
        self.write()
        self.assertEqual(self.build(), f"1.2.3+{commit}-dirty")
        # Sources in somebody else's checkout are at no commit of his.
        self.source = self.source / "inside"
        self.source.mkdir()
        self.write()
        self.assertEqual(self.build(), "1.2.3")

    def test_it_is_not_written_again_when_it_is_the_same(self):
        self.write("a")
        before = self.written.stat().st_mtime_ns
        self.write("a")
        self.assertEqual(self.written.stat().st_mtime_ns, before)


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
