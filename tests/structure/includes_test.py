"""Includes go down only: server, sessions, scheduler, engine, engine/kernels, proto aside.

A room may include itself and the rooms below it; server/main.cc alone may include
everything. Tests and benchmarks may include any room, and no room includes them.
"""

import pathlib
import re
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Highest first. engine/kernels is below the rest of engine, apart from the plain
# argument structs that both sides of the backend's seam share.
LEVEL = {"server": 4, "sessions": 3, "scheduler": 2, "engine": 1, "engine/kernels": 0}
SHARED_WITH_KERNELS = {"engine/backend/matrix.h", "engine/backend/op_args.h"}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
SOURCES = ("*.h", "*.cc", "*.cu", "*.cuh")
FORBIDDEN_ROOMS = {"utils", "common", "helpers", "misc"}


def room_of(path: str) -> str | None:
    """The room a path inside the repository belongs to, or None."""
    if path.startswith("engine/kernels/"):
        return "engine/kernels"
    first = path.split("/", 1)[0]
    return first if first in LEVEL or first in ("tests", "bench") else None


def violation(source: str, include: str) -> str | None:
    """Why `source` may not include `include`, or None when it may."""
    source_room, include_room = room_of(source), room_of(include)
    if source_room in (None, "tests", "bench") or source == "server/main.cc":
        return None
    if include_room in ("tests", "bench"):
        return f"{source} includes {include}: no room includes tests or benchmarks"
    if include in SHARED_WITH_KERNELS or include_room is None:
        return None
    if LEVEL[include_room] > LEVEL[source_room]:
        return f"{source} includes {include}: {include_room} is above {source_room}"
    return None


def sources():
    for room in ("engine", "scheduler", "sessions", "server"):
        for pattern in SOURCES:
            yield from (ROOT / room).rglob(pattern)


class IncludesTest(unittest.TestCase):
    def test_no_include_goes_up(self):
        found = []
        for path in sources():
            name = path.relative_to(ROOT).as_posix()
            for include in INCLUDE.findall(path.read_text(encoding="utf-8")):
                if (reason := violation(name, include)) is not None:
                    found.append(reason)
        self.assertEqual(found, [])

    def test_every_own_include_names_a_path_from_the_root(self):
        found = []
        for path in sources():
            for include in INCLUDE.findall(path.read_text(encoding="utf-8")):
                if room_of(include) is not None and not (ROOT / include).is_file():
                    found.append(f"{path.relative_to(ROOT)} includes {include}")
        self.assertEqual(found, [])

    def test_the_rule_refuses_what_it_should(self):
        self.assertIsNotNone(violation("engine/engine.h", "scheduler/request.h"))
        self.assertIsNotNone(violation("scheduler/plan.cc", "server/status.h"))
        self.assertIsNotNone(violation("engine/kernels/cpu/wkv.cc", "engine/model/model.h"))
        self.assertIsNotNone(violation("engine/model/model.cc", "tests/fakes/fake_engine.h"))
        self.assertIsNotNone(violation("engine/engine.h", "sessions/store.h"))
        self.assertIsNotNone(violation("sessions/store.h", "server/status.h"))
        self.assertIsNotNone(violation("scheduler/plan.cc", "sessions/store.h"))
        self.assertIsNone(violation("server/status.cc", "scheduler/request.h"))
        self.assertIsNone(violation("server/status.cc", "sessions/store.h"))
        self.assertIsNone(violation("sessions/snapshot.h", "engine/sampling.h"))
        self.assertIsNone(violation("sessions/snapshot.h", "scheduler/request.h"))
        self.assertIsNone(violation("scheduler/plan.cc", "engine/engine.h"))

    def test_no_room_is_a_place_for_everything(self):
        found = [
            path.relative_to(ROOT).as_posix()
            for room in ("engine", "scheduler", "sessions", "server", "tests", "bench", "tools")
            for path in (ROOT / room).rglob("*")
            if path.is_dir() and path.name in FORBIDDEN_ROOMS
        ]
        self.assertEqual(found, [])


if __name__ == "__main__":
    sys.exit(unittest.main())
