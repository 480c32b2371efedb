"""The vocabulary file: every kind of token survives writing and reading, and no line is ever run."""

from __future__ import annotations

import os
import random
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from train.vocab import Vocabulary, build  # noqa: E402

TEXT = "\"It's a bit of earth,\" said Mary -- 'twas café, naïve…\n\nIt was the best of times, it was the worst.\n" * 20


class VocabularyTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "vocab.txt"

    def read(self, text: str) -> Vocabulary:
        self.path.write_text(text, encoding="utf-8")
        return Vocabulary.read(self.path)

    def test_built_vocabulary_survives_its_file(self) -> None:
        built = build([TEXT.encode("utf-8")], 300)
        built.write(self.path)
        self.assertEqual(Vocabulary.read(self.path).tokens, built.tokens)
        self.assertEqual(sorted(built.tokens), list(range(1, 300)))

    def test_any_bytes_survive_encoding(self) -> None:
        vocabulary = build([TEXT.encode("utf-8")], 300)
        generator = random.Random(1)
        for text in (TEXT.encode("utf-8"), *(generator.randbytes(n) for n in (0, 1, 2, 3, 1000))):
            self.assertEqual(vocabulary.decode(vocabulary.encode(text)), text)

    def test_encoding_takes_the_longest_token(self) -> None:
        vocabulary = Vocabulary({1: b"a", 2: b"ab", 3: b"abcd", 4: b"b", 5: b"c", 6: b"bc"})
        self.assertEqual(vocabulary.encode(b"abcdabcab"), [3, 2, 5, 2])
        self.assertEqual(vocabulary.encode(b"ab<|endoftext|>a"), [2, 0, 1])
        self.assertEqual(vocabulary.decode([2, 0, 1]), b"ab<|endoftext|>a")
        with self.assertRaisesRegex(ValueError, "byte 120 at offset 1 has no token"):
            vocabulary.encode(b"ax")

    def test_lines_that_are_not_one_literal_are_refused(self) -> None:
        for line in (
            "1 a 1",
            "1 'a'",
            "'a' 1 1",
            "1 'a' 'b' 2",
            "1 __import__('os').system('touch ran') 1",
            "1 f'{1}' 1",
            "1 ('a') 1",
            "1 'a'+'b' 2",
            "1 'a' -1",
            "1 '\\xzz' 4",
            "1 b'\u00e9' 2",
            # What Python reads and the server does not.
            "1 '\\d' 2",
            "1 '\\N{BULLET}' 3",
            "1 b'\\u0041' 6",
            "1 b'\\477' 1",
            "1 'a' 1\r",
            "1 '" + "\\123" * 100 + "' x",  # at once, in however many ways digits could be shared out
            "1 '" + "a" * 1025 + "' 1025",
            "",
        ):
            with self.subTest(line), self.assertRaisesRegex(ValueError, "line 1: "):
                self.read(line + "\n")

    def test_repeated_and_reserved_entries_are_refused(self) -> None:
        for text, number in (("1 'a' 1\n1 'b' 1\n", 2), ("1 'a' 1\n2 'a' 1\n", 2), ("0 'a' 1\n", 1), ("1 '' 0\n", 1)):
            with self.subTest(text), self.assertRaisesRegex(ValueError, f"line {number}: "):
                self.read(text)

    def test_each_byte_must_have_a_token(self) -> None:
        lines = [f"{byte + 1} {bytes([byte])!r} 1" for byte in range(256)]
        text = "\n".join([*lines, "257 '\\303\\x41\\u00e9' 5"])
        for complete in (text, text + "\n"):
            self.assertEqual(self.read(complete).tokens[257], "\u00c3A\u00e9".encode())
        with self.assertRaisesRegex(ValueError, "byte 0x00 is not a token"):
            self.read("")
        with self.assertRaisesRegex(ValueError, "byte 0xc3 is not a token; each of the 256 single bytes must be"):
            self.read("\n".join(lines[:0xC3] + lines[0xC4:]))

    def test_ends_of_lines_are_read_as_the_server_reads_them(self) -> None:
        lines = "".join(f"{byte + 1} {bytes([byte])!r} 1\n" for byte in range(256))
        for text, complaint in (
            (lines.replace("\n", "\r\n"), "line 1: it ends with CR LF"),
            (lines.replace("\n", "\r"), "line 1: "),
            (lines + "\n", "line 257: "),
            (lines.replace("\n", "\n\n", 1), "line 2: "),
        ):
            self.path.write_bytes(text.encode())
            with self.subTest(complaint), self.assertRaisesRegex(ValueError, complaint):
                Vocabulary.read(self.path)

    def test_a_file_beyond_the_limit_is_not_read(self) -> None:
        with open(self.path, "wb") as file:
            file.truncate((64 << 20) + 1)
        with self.assertRaisesRegex(ValueError, "has 67108865 bytes; the limit is 67108864"):
            Vocabulary.read(self.path)

    @unittest.skipUnless(os.environ.get("GOLDFINCH_TEST_DATA"), "GOLDFINCH_TEST_DATA is not set: no World vocabulary")
    def test_world_vocabulary_is_read(self) -> None:
        path = Path(os.environ["GOLDFINCH_TEST_DATA"]) / "data" / "rwkv_vocab_v20230424.txt"
        vocabulary = Vocabulary.read(path)
        self.assertEqual(len(vocabulary.tokens), 65529)
        self.assertEqual(vocabulary.encode(b"Hello, world!"), [33155, 45, 40213, 34])


if __name__ == "__main__":
    unittest.main()
