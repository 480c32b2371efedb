"""Books as one row of token ids, cut into training windows."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from vocab import END_OF_TEXT, Vocabulary


def training_tokens(books: Path, held_out: str, vocabulary: Vocabulary) -> Tensor:
    """Every book but the held-out one, with end of text before, between and after them."""
    ids: list[int] = []
    for path in sorted(books.glob("*.txt")):
        if path.name != held_out:
            ids.append(END_OF_TEXT)
            ids.extend(vocabulary.encode(path.read_bytes()))
    if not ids:
        raise SystemExit(f"train: no training text in {books}")
    ids.append(END_OF_TEXT)
    return torch.tensor(ids)


class Windows:
    """Batches of [batch, ctx + 1] windows. Every epoch covers each token once, from a new offset, in a new order."""

    def __init__(self, tokens: Tensor, ctx: int, batch: int, generator: torch.Generator) -> None:
        # With fewer, an epoch that begins at a late offset has no window.
        if len(tokens) < 2 * ctx + 1:
            raise SystemExit(f"train: --ctx_len={ctx} needs {2 * ctx + 1} training tokens; there are {len(tokens)}")
        self.tokens, self.ctx, self.batch, self.generator = tokens, ctx, batch, generator
        self._starts: list[int] = []

    def next(self) -> Tensor:
        starts = [self._next_start() for _ in range(self.batch)]
        return torch.stack([self.tokens[s : s + self.ctx + 1] for s in starts])

    def _next_start(self) -> int:
        if not self._starts:
            offset = int(torch.randint(self.ctx, (), generator=self.generator))
            starts = torch.arange(offset, len(self.tokens) - self.ctx - 1, self.ctx)
            self._starts = starts[torch.randperm(len(starts), generator=self.generator)].tolist()
        return self._starts.pop()
