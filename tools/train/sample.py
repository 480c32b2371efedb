"""Continues a prompt. Slow (each token is a pass over the whole text): a look at a model, not a server.

    python3 sample.py models/demo --prompt "Once upon a time"
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from evaluate import load_model, next_logits
from vocab import END_OF_TEXT, Vocabulary


@torch.no_grad()
def continue_prompt(
    model: torch.nn.Module, vocabulary: Vocabulary, prompt: str, tokens: int, temperature: float, top_p: float, seed: int
) -> str:
    generator = torch.Generator().manual_seed(seed)
    ids = vocabulary.encode(prompt.encode("utf-8"))
    for _ in range(tokens):
        probabilities = torch.softmax(next_logits(model, [END_OF_TEXT, *ids]) / temperature, dim=-1)
        probabilities, order = probabilities.sort(descending=True)
        # A token stays while the ones before it have not reached top_p, so the first always stays.
        probabilities[probabilities.cumsum(0) - probabilities >= top_p] = 0
        choice = int(order[torch.multinomial(probabilities, 1, generator=generator)])
        if choice == END_OF_TEXT or choice not in vocabulary.tokens:
            break
        ids.append(choice)
    return vocabulary.decode(ids).decode("utf-8", errors="replace")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model directory")
    parser.add_argument("--prompt", default="Once upon a time")
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--top_p", type=float, default=0.95)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.temperature <= 0:
        parser.error("--temperature must be above 0")
    model = load_model(args.model)
    vocabulary = Vocabulary.read(args.model / "vocab.txt")
    print(continue_prompt(model, vocabulary, args.prompt, args.tokens, args.temperature, args.top_p, args.seed))


if __name__ == "__main__":
    main()
