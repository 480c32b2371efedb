"""A vocabulary in the RWKV World format: build it from books, read and write it, encode and decode with it.

The file has one line per token, `id python-literal byte-length`. Encoding is greedy: always the longest token
that matches, as the server does it. Id 0 is end of text and has no line; in a text it is spelled <|endoftext|>.

    python3 vocab.py BOOKS vocab.txt --exclude The-Secret-Garden_113.txt --size 4096
"""

from __future__ import annotations

import argparse
import ast
import heapq
import re
from collections import Counter, defaultdict
from pathlib import Path

END_OF_TEXT = 0
END_OF_TEXT_SPELLED = b"<|endoftext|>"
# Candidates for tokens never cross these pieces: a word with its leading space, punctuation, a run of white space.
PIECE = re.compile(rb" ?[A-Za-z\x80-\xff]+| ?[0-9]+| ?[^\sA-Za-z0-9\x80-\xff]+|\s+")
# The escapes that the server reads, in a bytes and in a str literal; Python reads more, some with a warning.
BYTES_ESCAPE = r"""\\(?:[\\'"abfnrtv]|(?![4-7][0-7]{2})[0-7]{1,3}+|x[0-9A-Fa-f]{2})"""
STR_ESCAPE = r"""\\(?:[\\'"abfnrtv]|[0-7]{1,3}+|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8})"""
LITERAL = "|".join(
    rf"{prefix}{quote}(?:[^{quote}\\]|{escape})*{quote}"
    for prefix, escape in (("b", BYTES_ESCAPE), ("", STR_ESCAPE))
    for quote in "'\""
)
LINE = re.compile(rf"([0-9]{{1,9}}) ({LITERAL}) ([0-9]{{1,9}})")
# The server's limits.
MAX_FILE_BYTES = 64 << 20
MAX_TOKEN_BYTES = 1024


class Vocabulary:
    """Token ids to bytes and back."""

    def __init__(self, tokens: dict[int, bytes]) -> None:
        self.tokens = tokens
        self._ids = {token: index for index, token in tokens.items()}
        # Unless a line of the file has it.
        self._ids.setdefault(END_OF_TEXT_SPELLED, END_OF_TEXT)
        # The longest token by its first two bytes bounds the search at each position.
        self._longest: dict[bytes, int] = defaultdict(lambda: 1)
        for token in self._ids:
            self._longest[token[:2]] = max(self._longest[token[:2]], len(token))

    def encode(self, text: bytes) -> list[int]:
        ids, longest = self._ids, self._longest
        result = []
        at = 0
        while at < len(text):
            for length in range(longest.get(text[at : at + 2], 1), 0, -1):
                found = ids.get(text[at : at + length])
                if found is not None:
                    break
            else:
                raise ValueError(f"byte {text[at]} at offset {at} has no token")
            result.append(found)
            at += length
        return result

    def decode(self, ids: list[int]) -> bytes:
        return b"".join(self.tokens[index] if index != END_OF_TEXT else END_OF_TEXT_SPELLED for index in ids)

    @staticmethod
    def read(path: Path) -> Vocabulary:
        """Raises ValueError for what the server refuses, with one line that names the offending one of the file."""
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ValueError(f"{path} has {size} bytes; the limit is {MAX_FILE_BYTES}")
        tokens: dict[int, bytes] = {}
        known: set[bytes] = set()
        # As bytes: the file is copied as it is, and reading text would make other ends of lines look right.
        lines = path.read_bytes().decode("utf-8").split("\n")
        if not lines[-1]:
            del lines[-1]
        for number, line in enumerate(lines, 1):
            try:
                index, token = _parse_line(line)
                if index in tokens or token in known:
                    raise ValueError("an id or a token that an earlier line has")
            except (ValueError, SyntaxError) as error:
                raise ValueError(f"{path}, line {number}: {error}") from None
            tokens[index] = token
            known.add(token)
        for byte in range(256):
            if bytes([byte]) not in known:
                raise ValueError(f"{path}: byte 0x{byte:02x} is not a token; each of the 256 single bytes must be")
        return Vocabulary(tokens)

    def write(self, path: Path) -> None:
        lines = []
        for index in sorted(self.tokens):
            token = self.tokens[index]
            try:
                literal = repr(token.decode("utf-8"))
            except UnicodeDecodeError:
                literal = repr(token)
            lines.append(f"{index} {literal} {len(token)}\n")
        path.write_text("".join(lines), encoding="utf-8", newline="\n")


def _parse_line(line: str) -> tuple[int, bytes]:
    if line.endswith("\r"):
        raise ValueError("it ends with CR LF; the end of a line is LF alone")
    match = LINE.fullmatch(line)
    if not match:
        raise ValueError("not `id python-literal byte-length`")
    index, literal, size = match.groups()
    value = ast.literal_eval(literal)  # LINE admits one string or bytes literal and nothing else
    token = value.encode("utf-8") if isinstance(value, str) else value
    if int(index) == END_OF_TEXT or not token:
        raise ValueError("id 0 and the empty token mean end of text and have no line")
    if len(token) != int(size):
        raise ValueError(f"the token has {len(token)} bytes, the line says {size}")
    if len(token) > MAX_TOKEN_BYTES:
        raise ValueError(f"the token has {len(token)} bytes; the limit is {MAX_TOKEN_BYTES}")
    return int(index), token


def merged_pieces(texts: list[bytes], merges: int) -> list[bytes]:
    """Byte-pair merges over the pieces of the texts, most frequent first."""
    counts = Counter(piece for text in texts for piece in PIECE.findall(text))
    words = [[bytes([b]) for b in piece] for piece in counts]
    weights = list(counts.values())
    pair_count: Counter[tuple[bytes, bytes]] = Counter()
    pair_words: dict[tuple[bytes, bytes], set[int]] = defaultdict(set)
    for index, word in enumerate(words):
        for pair in zip(word, word[1:]):
            pair_count[pair] += weights[index]
            pair_words[pair].add(index)
    queue = [(-count, pair) for pair, count in pair_count.items()]
    heapq.heapify(queue)
    result: list[bytes] = []
    while queue and len(result) < merges:
        count, pair = heapq.heappop(queue)
        if -count != pair_count[pair]:  # stale: the current count is queued as well
            continue
        if count == 0:
            break
        result.append(pair[0] + pair[1])
        changed: Counter[tuple[bytes, bytes]] = Counter()
        for index in pair_words.pop(pair):
            old = words[index]
            new = _merge(old, pair)
            for p in zip(old, old[1:]):
                changed[p] -= weights[index]
            for p in zip(new, new[1:]):
                changed[p] += weights[index]
                pair_words[p].add(index)
            words[index] = new
        for p, difference in changed.items():
            if difference:
                pair_count[p] += difference
                heapq.heappush(queue, (-pair_count[p], p))
    return list(dict.fromkeys(result))


def _merge(word: list[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
    merged, at = [], 0
    while at < len(word):
        if at + 1 < len(word) and (word[at], word[at + 1]) == pair:
            merged.append(pair[0] + pair[1])
            at += 2
        else:
            merged.append(word[at])
            at += 1
    return merged


def build(texts: list[bytes], size: int) -> Vocabulary:
    """All single bytes, and the pieces that greedy matching uses most.

    Merging leaves stepping stones (" th") that greedy matching hardly ever picks, so half as many candidates again
    are made and the least used are dropped.
    """
    single = [bytes([b]) for b in range(256)]
    wanted = size - 1 - len(single)
    candidates = merged_pieces(texts, wanted * 3 // 2)
    trial = Vocabulary(dict(enumerate(single + candidates, 1)))
    used = Counter(index for text in texts for index in trial.encode(text))
    ranked = sorted(range(257, 257 + len(candidates)), key=lambda index: -used[index])
    kept = sorted((trial.tokens[index] for index in ranked[:wanted]), key=lambda token: (len(token), token))
    return Vocabulary(dict(enumerate(single + kept, 1)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("books", type=Path, help="folder of .txt files")
    parser.add_argument("vocab", type=Path, help="the file to write")
    parser.add_argument("--exclude", action="append", default=[], help="a file name that stays unseen (validation text)")
    parser.add_argument("--size", type=int, default=4096, help="number of ids, end of text included")
    args = parser.parse_args()
    texts = [path.read_bytes() for path in sorted(args.books.glob("*.txt")) if path.name not in args.exclude]
    vocabulary = build(texts, args.size)
    vocabulary.write(args.vocab)
    ids = sum(len(vocabulary.encode(text)) for text in texts)
    print(f"{len(vocabulary.tokens)} tokens, {sum(map(len, texts)) / ids:.3f} bytes per token")


if __name__ == "__main__":
    main()
