"""bench/fairness.py runs each of its cases and reports what it promises; what it finds in seconds is not judged.

    fairness_test.py FOLDER_OF_PROGRAMS
"""

import json
import pathlib
import subprocess
import sys
import unittest

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


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
