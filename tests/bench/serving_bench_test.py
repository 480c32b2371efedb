"""serving_bench measures each of its cases, against a server and a client that are real.

    serving_bench_test.py SERVING_BENCH
"""

import json
import subprocess
import sys
import unittest

BENCH = sys.argv[1] if len(sys.argv) > 1 else ""
CASES = {"pause/streams:64/p50", "pause/streams:64/p99",
         "pause_ahead/streams:64/p50", "pause_ahead/streams:64/p99", "cpu/streams:64", "cpu/streams:64/instant",
         "tokens/streams:64/instant", "messages/streams:64/instant", "first/idle/p50", "first/idle/p99"}


class ServingBenchTest(unittest.TestCase):
    def test_each_case_is_one_line_of_json(self):
        result = subprocess.run([BENCH, "--json", "--seconds=0.5"], capture_output=True, text=True, timeout=120)
        self.assertEqual(result.returncode, 0, result.stderr)
        rows = [json.loads(line) for line in result.stdout.splitlines()]  # nothing but JSON
        self.assertEqual({row["name"] for row in rows}, CASES)
        for row in rows:
            self.assertEqual(set(row), {"name", "measured", "unit", "limit", "ratio"})
            if row["name"].startswith("pause_ahead"):
                self.assertGreaterEqual(row["measured"], 0, row)  # none at all, mostly
            else:
                self.assertGreater(row["measured"], 0, row)
            self.assertAlmostEqual(row["ratio"], row["measured"] / row["limit"], delta=1e-6 * row["ratio"])
        by_name = {row["name"]: row["measured"] for row in rows}
        self.assertLessEqual(by_name["messages/streams:64/instant"], by_name["tokens/streams:64/instant"])
        self.assertLessEqual(by_name["pause/streams:64/p50"], by_name["pause/streams:64/p99"])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
