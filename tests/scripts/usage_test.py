"""scripts/: whoever asks for help or mistypes an argument gets that far and no further.

    usage_test.py

The scripts run in a copy of the tree that has them alone, with programs that only say that they were called: nothing
is installed or built.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path.name for path in (ROOT / "scripts").glob("*.sh"))
STOPPED = ("apt-get", "cmake", "ctest", "dpkg-query", "nvidia-smi", "patchelf", "python3", "strip", "sudo")


class UsageTest(unittest.TestCase):
    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        shutil.copytree(ROOT / "scripts", self.folder / "scripts")
        shutil.copy(ROOT / "CMakePresets.json", self.folder)
        programs = self.folder / "programs"
        programs.mkdir()
        self.called = self.folder / "called"
        for name in STOPPED:
            (programs / name).write_text(f'#!/bin/sh\necho "{name} $*" >>"{self.called}"\nexit 1\n', encoding="utf-8")
            (programs / name).chmod(0o755)
        self.environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}

    def run_script(self, name: str, *arguments: str, caller: Path | None = None) -> subprocess.CompletedProcess[str]:
        self.called.unlink(missing_ok=True)
        return subprocess.run([str(self.folder / "scripts" / name), *arguments], env=self.environment,
                              cwd=caller or self.folder, capture_output=True, text=True, timeout=60, check=False)

    def calls(self) -> list[str]:
        return self.called.read_text(encoding="utf-8").splitlines() if self.called.exists() else []

    def test_help_is_the_usage_and_nothing_else(self) -> None:
        for name in SCRIPTS:
            for flag in ("-h", "--help"):
                with self.subTest(name=name, flag=flag):
                    result = self.run_script(name, flag)
                    self.assertEqual((result.returncode, result.stderr, self.calls()), (0, "", []))
                    self.assertRegex(result.stdout, rf"^usage: (scripts/)?{name}")

    def test_what_is_mistyped_is_refused_before_anything_is_done(self) -> None:
        for name in SCRIPTS:
            with self.subTest(name=name):
                result = self.run_script(name, "--halp")
                self.assertNotEqual(result.returncode, 0)
                self.assertEqual((result.stdout, self.calls()), ("", []))
                self.assertIn("usage: ", result.stderr)
        result = self.run_script("test.sh", "release", "asna")
        self.assertEqual((result.returncode, self.calls()), (64, []))
        self.assertIn("test: there is no preset asna\n", result.stderr)

    def test_quickstart_looks_for_a_model_where_its_caller_is(self) -> None:
        caller = self.folder / "caller"
        (caller / "mine").mkdir(parents=True)
        (caller / "mine" / "model.safetensors").touch()
        ports = ("--port=1", "--metrics_port=2")  # where nobody listens
        for model in ("mine", "./mine", str(caller / "mine")):
            self.run_script("quickstart.sh", f"--model={model}", *ports, caller=caller)
            self.assertTrue(self.calls(), f"{model} was not found")
        result = self.run_script("quickstart.sh", "--model=yours", *ports, caller=caller)
        self.assertEqual((result.returncode, self.calls()), (1, []))
        self.assertIn(f"no model in {caller}/yours\n", result.stderr)

    def test_every_preset_that_can_be_tested_is_one(self) -> None:
        presets = json.loads((ROOT / "CMakePresets.json").read_text(encoding="utf-8"))["testPresets"]
        for preset in presets:
            self.run_script("test.sh", preset["name"])
            self.assertTrue(self.calls(), f"{preset['name']} was refused")
        self.assertNotEqual(self.run_script("test.sh", "base").returncode, 0)


if __name__ == "__main__":
    unittest.main()
