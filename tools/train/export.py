"""Writes a model directory the server reads: config.json, model.safetensors in bfloat16, vocab.txt."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from model import GoldFinch


def export(model: GoldFinch, vocab: Path, directory: Path) -> None:
    """Each file is renamed into place, so that a reader never meets half a file."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = {name: x.detach().to(torch.bfloat16).contiguous() for name, x in model.state_dict().items()}
    partial = directory / "partial"
    save_file(weights, partial)
    partial.chmod(0o644)  # save_file makes it private to its owner
    os.replace(partial, directory / "model.safetensors")
    partial.write_text(json.dumps(dataclasses.asdict(model.cfg), indent=2) + "\n", encoding="utf-8")
    os.replace(partial, directory / "config.json")
    shutil.copyfile(vocab, partial)
    os.replace(partial, directory / "vocab.txt")
