"""What the documents name exists: files of the repository, links, and code that parses."""

import ast
import pathlib
import re
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOMS = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "build"}


def named_paths(text: str) -> set[str]:
    """`engine/model/model.h`, `server/status.{h,cc}`, `tools/train`; not `models/goldfinch` in a block."""
    found = set()
    for word in re.findall(r"`([A-Za-z0-9_./{},*-]+)`", text):
        if "/" in word and word.split("/", 1)[0] in ROOMS:
            if braces := re.search(r"\{([^}]*)\}", word):
                found |= {word.replace(braces[0], part) for part in braces[1].split(",")}
            else:
                found.add(word)
    return found


class DocumentsTest(unittest.TestCase):
    def test_every_named_path_exists(self):
        for document in DOCUMENTS:
            for name in sorted(named_paths(document.read_text(encoding="utf-8"))):
                with self.subTest(document=document.name, path=name):
                    self.assertTrue(any(ROOT.glob(name.rstrip("/"))), f"{document.name} names {name}")

    def test_every_relative_link_leads_somewhere(self):
        for document in DOCUMENTS:
            for link in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8")):
                if not link.startswith(("http://", "https://")):
                    self.assertTrue((document.parent / link).exists(), f"{document.name} links to {link}")

    def test_python_in_documents_parses(self):
        for document in DOCUMENTS:
            for block in re.findall(r"^```python\n(.*?)^```", document.read_text(encoding="utf-8"), re.M | re.S):
                ast.parse(block, document.name)

    def test_the_finder_finds(self):
        self.assertEqual(named_paths("see `engine/a.{h,cc}`, `no/such`, `scripts/test.sh` and `--flag`"),
                         {"engine/a.h", "engine/a.cc", "scripts/test.sh"})


if __name__ == "__main__":
    sys.exit(unittest.main())
