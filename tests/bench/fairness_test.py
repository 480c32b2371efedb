"""bench/fairness.py runs each of its cases and reports what it promises; what it finds in seconds is not judged.

    fairness_test.py FOLDER_OF_PROGRAMS
"""

import contextlib
import copy
import importlib.util
import io
import json
import pathlib
import subprocess
import sys
import unittest
from unittest import mock

FAIRNESS = pathlib.Path(__file__).resolve().parents[2] / "bench" / "fairness.py"
PROGRAMS = sys.argv[1] if len(sys.argv) > 1 else ""


def run(*flags: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, FAIRNESS, f"--bin={PROGRAMS}", "--rounds=1", "--seconds=2", "--warmup=1", *flags],
                          capture_output=True, text=True, timeout=500)


class FairnessTest(unittest.TestCase):
    def test_every_case_is_reported_and_compared_with_the_flood(self):
        result = run("--json", "--cases=flood,even,short,alone")
        self.assertEqual(result.returncode, 0, result.stderr)
        rows = [json.loads(line) for line in result.stdout.splitlines()]
        cases = {row["case"]: row for row in rows if "case" in row}
        self.assertEqual(list(cases), ["flood", "even", "short", "alone"])
        for row in cases.values():
            self.assertEqual(row["failed"], {}, row)
            self.assertGreater(row["requests"], 0, row)
            self.assertEqual(row["finished"] + row["unanswered"], row["requests"], row)
            self.assertGreater(row["tokens_per_second"], 0, row)
        self.assertGreater(cases["flood"]["tokens_per_second"], cases["alone"]["tokens_per_second"])
        ratios = {(row["ratio"], row["of"]): row for row in rows if "ratio" in row}
        self.assertEqual(set(ratios), {(f"flood/{case}", f"{what} p99") for case in ("even", "short", "alone")
                                       for what in ("first_token", "inter_token")})
        for (ratio, of), row in ratios.items():
            what = of.removesuffix(" p99")
            other = cases[ratio.removeprefix("flood/")]
            self.assertEqual(row["all"], [cases["flood"][what]["p99"] / other[what]["p99"]])
            self.assertEqual(row["median"], row["all"][0])

    def test_weights_are_compared_with_shares(self):
        result = run("--json", "--cases=weights")
        self.assertEqual(result.returncode, 0, result.stderr)
        row = json.loads(result.stdout)
        one, three = row["tenant0"], row["tenant1"]
        self.assertAlmostEqual(one["share"] + three["share"], 1)
        self.assertAlmostEqual(one["off_by"], one["share"] / 0.25 - 1)
        self.assertAlmostEqual(three["off_by"], three["share"] / 0.75 - 1)
        self.assertGreaterEqual(min(one["least_waiting"], three["least_waiting"]), 16)

    def test_the_table_is_for_people(self):
        result = run("--cases=alone")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertRegex(result.stdout, r"^alone +\d+ tokens/s; nine: \d+ of \d+ requests, first token p50 ")

    def test_an_unknown_case_is_an_error(self):
        result = run("--cases=flod")
        self.assertEqual(result.returncode, 2)
        self.assertIn("no such case: flod", result.stderr)

    def test_a_short_case_needs_the_flood_before_it(self):
        for cases in ("short", "short,flood", "even,short"):
            result = run(f"--cases={cases}")
            self.assertEqual(result.returncode, 2)
            self.assertIn("the case short needs flood before it", result.stderr)


def load_fairness():
    spec = importlib.util.spec_from_file_location("fairness", FAIRNESS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class ComparisonTest(unittest.TestCase):
    """With the reports of runs that nobody made: no program is started."""

    NINE = {"name": "nine", "requests": 18, "finished": 18, "unanswered": 0, "failed": {},
            "first_token_seconds": {"p50": 0.5, "p99": 1.0}, "inter_token_seconds": {"p50": 0.25, "p99": 0.5}}

    def compare(self, *flags: str, **nine: object) -> tuple[object, list[dict]]:
        """What main() returned or ended with, and the rows; `nine` is what is different in the flood."""
        fairness = load_fairness()

        def drive(options, server, folder, entries, on_sample=None):
            is_flood = any(entry["name"] == "flood" for entry in entries)
            return {"served": {"tenant0": 100.0}, "put_aside": 0,
                    "groups": [copy.deepcopy(self.NINE) | (nine if is_flood else {})]}

        printed = io.StringIO()
        with mock.patch.multiple(fairness, drive=drive,
                                 serving=lambda *_: contextlib.nullcontext((None, None))), \
                mock.patch.object(sys, "argv", ["fairness", "--json", *flags]), contextlib.redirect_stdout(printed):
            try:
                ended = fairness.main()
            except SystemExit as error:
                ended = error.code
        return ended, [json.loads(line) for line in printed.getvalue().splitlines()]

    def test_the_order_of_the_cases_does_not_matter(self):
        for cases in ("flood,even", "even,flood"):
            ended, rows = self.compare(f"--cases={cases}", "--rounds=2",
                                       first_token_seconds={"p50": 1.0, "p99": 3.0})
            self.assertIsNone(ended)
            ratios = {row["of"]: row["all"] for row in rows if row.get("ratio") == "flood/even"}
            self.assertEqual(ratios, {"first_token p99": [3.0, 3.0], "inter_token p99": [1.0, 1.0]})

    def test_a_group_that_starved_is_not_the_fastest(self):
        nothing = {"p50": 0.0, "p99": 0.0}
        for nine, said in (
            ({"finished": 0, "unanswered": 18, "first_token_seconds": nothing, "inter_token_seconds": nothing},
             "only 0 of 18 requests of the nine finished"),
            ({"finished": 15, "failed": {"INTERNAL": 2, "UNAVAILABLE": 1}},
             "only 15 of 18 requests of the nine finished"),
            ({"requests": 0, "finished": 0, "first_token_seconds": nothing, "inter_token_seconds": nothing},
             "0 requests of the nine are too few"),
        ):
            ended, rows = self.compare("--cases=flood,even", **nine)
            self.assertEqual(ended, f"flood: {said}: the run says nothing")
            self.assertEqual([row["case"] for row in rows], ["flood"])  # what there was is shown


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
