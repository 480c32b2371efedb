"""goldfinch-bench says what it promises to say, of a model small enough to take seconds.

    bench_test.py GOLDFINCH_BENCH
"""

import json
import subprocess
import sys
import unittest

BENCH = sys.argv[1] if len(sys.argv) > 1 else ""
FAST = ("--case_seconds=1", "--threads=1")


def run(*flags: str, shape: str = "3x64") -> subprocess.CompletedProcess:
    return subprocess.run([BENCH, f"--shape={shape}", *FAST, *flags], capture_output=True, text=True, timeout=300)


class BenchTest(unittest.TestCase):
    def rows(self, *flags: str) -> dict[str, dict]:
        result = run("--json", *flags)
        self.assertEqual(result.returncode, 0, result.stderr)
        rows = [json.loads(line) for line in result.stdout.splitlines()]  # nothing but JSON
        for row in rows:
            self.assertEqual(set(row), {"name", "measured", "unit", "limit", "ratio"})
            self.assertGreater(row["measured"], 0, row)
            if row["limit"] > 0:
                self.assertAlmostEqual(row["ratio"], row["measured"] / row["limit"], delta=1e-3 * row["ratio"])
        return {row["name"]: row for row in rows}

    def test_each_case_is_one_line_of_json(self):
        rows = self.rows("--cases=^prefill/t:(512|2048)$|^decode/batch:(1|4)$|^decode(_rebuilt)?/ctx:1024/|session")
        self.assertEqual(set(rows), {
            "prefill/t:512", "prefill/t:2048", "decode/batch:1", "decode/batch:4", "decode/ctx:1024/batch:1",
            "decode/ctx:1024/batch:8", "decode/ctx:1024/batch:16", "expand/t:1024", "decode_rebuilt/ctx:1024/batch:1",
            "decode_rebuilt/ctx:1024/batch:8", "decode_rebuilt/ctx:1024/batch:16",
            "session_bytes/t:65536", "sessions_per_gb/t:65536"})

    def test_parking_is_measured_beside_plain_copies(self):
        rows = self.rows("--cases=^(keep|park|restore|open|put|get)/t:8192$")
        self.assertEqual(set(rows), {"keep/t:8192", "park/t:8192", "restore/t:8192", "open/t:8192", "put/t:8192", "get/t:8192"})

    def test_ops_are_measured_beside_copies(self):
        self.assertEqual(set(self.rows("--cases=^wkv/batch:64$|^attend/ctx:32768/batch:1$")),
                         {"wkv/batch:64", "attend/ctx:32768/batch:1"})

    def test_many_sessions_are_resident_and_each_answers(self):
        rows = self.rows("--cases=^resident/", "--sessions=7")
        self.assertEqual(set(rows), {f"{name}/t:65536" for name in ("resident", "resident_load", "resident_answer")})
        self.assertEqual(rows["resident/t:65536"]["measured"], 7)

    def test_int8_a_vocabulary_table_and_floating_threads_run(self):
        self.assertEqual(set(self.rows("--cases=^decode/batch:1$", "--weight_dtype=int8", "--cache_dtype=int8",
                                       "--vocab_table", "--float_threads")), {"decode/batch:1"})

    def test_fp8_weights_run(self):
        self.assertEqual(set(self.rows("--cases=^decode/batch:1$", "--weight_dtype=fp8")), {"decode/batch:1"})

    def test_what_does_not_fit_is_skipped_and_said(self):
        result = run("--cases=^decode/batch:64$", "--memory_bytes=1000000")
        self.assertEqual(result.returncode, 0)
        self.assertIn("decode/batch:64: skipped: needs", result.stderr)
        self.assertNotIn("decode/batch:64", result.stdout)

    def test_progress_goes_to_standard_error_and_a_table_to_standard_output(self):
        result = run("--cases=^decode/batch:1$")
        self.assertIn("decode/batch:1 ...", result.stderr)
        head, row = result.stdout.splitlines()
        self.assertEqual(head.split(), ["case", "measured", "unit", "limit", "ratio"])
        self.assertEqual(row.split()[0], "decode/batch:1")

    def test_a_shape_that_is_none_is_one_line_of_error(self):
        result = run(shape="12by768")
        self.assertEqual(result.returncode, 1)
        self.assertIn("shape is 12by768; it must be LAYERSxWIDTH", result.stderr)

    def test_a_bad_expression_is_an_error(self):
        result = run("--cases=(")
        self.assertEqual(result.returncode, 1)
        self.assertIn("--cases", result.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
