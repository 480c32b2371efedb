"""Proves that model.py is GoldFinch: reproduces the golden logits, and chunked WKV equals sequential WKV.

    python3 tools/train/check_golden.py tests/golden
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from model import Config, GoldFinch
from wkv import wkv_chunked, wkv_sequential

TOLERANCE = 1e-4


def largest(differences: list[Tensor]) -> float:
    """Of all their elements; infinite if one is NaN, which max() may pass over and no comparison finds too large."""
    return torch.stack([x.abs().max() for x in differences]).nan_to_num(nan=torch.inf).max().item()


def wkv_error(generator: torch.Generator) -> float:
    """Largest float32 error over the largest value, with decays from almost none to e^-20 per token.

    The length is no multiple of any chunk but 1, and the judge runs in float64.
    """
    shape = (2, 77, 3, 16)
    r, k, v = (torch.randn(shape, generator=generator) for _ in range(3))
    log_w = -torch.exp(torch.empty(shape).uniform_(-12, 3, generator=generator))
    truth = wkv_sequential(*(x.double() for x in (r, k, v, log_w)))
    errors = [wkv_chunked(r, k, v, log_w, chunk) - truth for chunk in (1, 2, 16, 32, 64)]
    return largest(errors) / truth.abs().max().item()


def golden_error(case: Path) -> float:
    """Largest difference from the expected logits of one case, at the prompt and after the long prompt."""
    model = GoldFinch(Config.load(case / "config.json"))
    model.load_state_dict({name: x.float() for name, x in load_file(case / "model.safetensors").items()})
    expected = load_file(case / "expected.safetensors")
    with torch.no_grad():
        logits = model(expected["tokens"].long()[None])[0]
        long_logits = model(expected["long_tokens"].long()[None])[0, -4:]
    return largest([logits - expected["logits"], long_logits - expected["long_last_logits"]])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("golden", type=Path, help="folder with one folder per golden case")
    args = parser.parse_args()
    cases = sorted(path.parent for path in args.golden.glob("*/expected.safetensors"))
    if not cases:
        print(f"check_golden: no case with expected.safetensors in {args.golden}", file=sys.stderr)
        return 2
    errors = {"wkv chunked against sequential": wkv_error(torch.Generator().manual_seed(1))}
    errors |= {case.name: golden_error(case) for case in cases}
    for name, error in errors.items():
        print(f"{name}: max_abs_error {error:.2e}{'' if error <= TOLERANCE else '  FAILED'}")
    return 0 if all(error <= TOLERANCE for error in errors.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
