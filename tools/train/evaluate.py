"""Validation loss of a model on one text, per token and per byte.

    python3 evaluate.py models/demo BOOKS/The-Secret-Garden_113.txt
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from model import Config, GoldFinch
from vocab import END_OF_TEXT, Vocabulary


@dataclasses.dataclass
class Loss:
    """Mean negative log-likelihood of a text."""

    nats: float
    tokens: int
    bytes: int

    @property
    def per_token(self) -> float:
        return self.nats / self.tokens

    @property
    def per_byte(self) -> float:
        return self.nats / self.bytes

    def __str__(self) -> str:
        bits = self.per_byte / math.log(2)
        return (
            f"loss {self.per_token:.4f} per token, {self.per_byte:.4f} per byte ({bits:.4f} bits per byte) "
            f"over {self.tokens} tokens, {self.bytes} bytes"
        )


def load_model(directory: Path) -> GoldFinch:
    """A model directory as the server reads it: the stored weights, computed in float32."""
    model = GoldFinch(Config.load(directory / "config.json"))
    model.load_state_dict({name: x.float() for name, x in load_file(directory / "model.safetensors").items()})
    return model.eval()


@torch.no_grad()
def text_loss(
    model: torch.nn.Module, vocabulary: Vocabulary, ids: list[int], ctx: int, windows: int | None = None
) -> Loss:
    """Scores `ids` in windows of ctx tokens; every token is scored exactly once.

    A window begins in the middle of the one before, so all but the first half window have at least ctx/2 tokens of
    context. With `windows`, only that many at the start of the text are scored.
    """
    row = torch.tensor([END_OF_TEXT, *ids])
    stride = ctx // 2
    nats, scored = 0.0, 0
    starts = range(0, max(len(ids) - stride, 1), stride)
    for start in starts[:windows]:
        window = row[start : start + ctx + 1]
        logits = model(window[None, :-1]).float()[0]
        fresh = slice(scored - start, None)
        nats += F.cross_entropy(logits[fresh], window[1:][fresh], reduction="sum").item()
        scored = start + len(window) - 1
    return Loss(nats, scored, len(vocabulary.decode(ids[:scored])))


def next_logits(model: torch.nn.Module, ids: list[int]) -> Tensor:
    return model(torch.tensor([ids])).float()[0, -1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model directory")
    parser.add_argument("text", type=Path, help="text the model was not trained on")
    parser.add_argument("--ctx", type=int, help="tokens per window (default: ctx_len of the model)")
    args = parser.parse_args()
    model = load_model(args.model)
    vocabulary = Vocabulary.read(args.model / "vocab.txt")
    print(text_loss(model, vocabulary, vocabulary.encode(args.text.read_bytes()), args.ctx or model.cfg.ctx_len))


if __name__ == "__main__":
    main()
