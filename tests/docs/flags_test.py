"""The README's tables of flags and subcommands say what the programs themselves say.

    flags_test.py GOLDFINCH_SERVER GOLDFINCH
"""

import pathlib
import re
import subprocess
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SERVER, CLIENT = sys.argv[1:3] if len(sys.argv) >= 3 else ("", "")

# `  --flag TYPE=default      text`; a flag that reaches the column of the text has its
# text on the next line.
HELP_FLAG = re.compile(r"^  (?:-\w,)?(--\w+)(.*)$")
NOT_IN_TABLE = {"--help", "--version"}


def help_of(*command: str) -> str:
    return subprocess.run([*command, "--help"], check=True, capture_output=True, text=True).stdout


def parse_help(text: str) -> dict[str, tuple[str, str]]:
    """Flag to (default, meaning)."""
    flags = {}
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if not (match := HELP_FLAG.match(line)) or match[1] in NOT_IN_TABLE:
            continue
        kind, _, meaning = match[2].partition("  ")
        if not meaning and len(line) > 30 and line[29] == " " and "=" in line[:29]:  # the flag fills its column
            kind, meaning = line[:29].split(" ", 3)[-1], line[30:]
        if not meaning:
            meaning = lines[number + 1]
        default = "required" if "REQUIRED" in kind else kind.rpartition("=")[2] if "=" in kind else ""
        # A size shows its units with an equals sign, in brackets.
        flags[match[1]] = ("" if default.endswith("]") else default, meaning.strip())
    return flags


def table(heading: str) -> list[list[str]]:
    """Cells of the first table after the line that starts with `heading`, without its head."""
    rest = README[README.index(heading):]
    rows = [line for line in rest[rest.index("|"):].split("\n\n", 1)[0].splitlines()]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


class FlagsTest(unittest.TestCase):
    def test_the_parser_reads_every_shape_of_line(self):
        text = ("  --model TEXT REQUIRED       A directory\n  --threads INT               Threads\n"
                "  --listen TEXT=127.0.0.1:50051\n                              HOST:PORT\n"
                "  --bytes INT:SIZE [b, kb(=1024b), ...]=64\n                              Bytes\n")
        self.assertEqual(parse_help(text), {
            "--model": ("required", "A directory"), "--threads": ("", "Threads"),
            "--listen": ("127.0.0.1:50051", "HOST:PORT"), "--bytes": ("64", "Bytes")})

    def test_the_table_of_flags_is_the_help_of_the_server(self):
        written = {row[0].strip("`"): (row[1].strip("`"), row[2]) for row in table("## Flags of goldfinch-server")}
        self.assertEqual(written, parse_help(help_of(SERVER)))

    def test_the_table_of_subcommands_is_the_help_of_the_client(self):
        listed = re.findall(r"^  (\w+) {2,}\S", help_of(CLIENT).partition("Subcommands:")[2], re.MULTILINE)
        self.assertEqual([row[0].strip("`") for row in table("With the client")], listed)

    def test_flags_of_the_client_in_examples_exist(self):
        for subcommand, arguments in re.findall(r"goldfinch (generate|score|health|verify) (.*)", README):
            known = set(parse_help(help_of(CLIENT, subcommand)))
            for flag in re.findall(r"(?<!\w)--\w+", arguments):
                self.assertIn(flag, known | NOT_IN_TABLE, f"goldfinch {subcommand}")


if __name__ == "__main__":
    if not SERVER:
        sys.exit("usage: flags_test.py GOLDFINCH_SERVER GOLDFINCH")
    sys.exit(unittest.main(argv=sys.argv[:1]))
