#!/usr/bin/env python3
"""Turns a published GoldFinch or Finch checkpoint (.pth) into a model directory the server reads.

    tools/convert_checkpoint.py goldfinch.pth rwkv_vocab_v20230424.txt models/goldfinch \\
        --use_v2=1 --use_one_minus_w=1 --rope=none --ctx_len=4096

Shapes tell most of the configuration; the flags ask for what no shape tells, because a wrong guess would make a
model that answers nonsense. Weights are copied bit for bit. The file is never trusted: nothing in it
is run. Needs Python 3.11 and numpy. Exit codes: 0 done, 1 the input cannot be used as the flags say, 2 wrong
flags.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import struct
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np

from goldfinch_shapes import check_tensors, infer_config
from pth_reader import CheckpointError, PthFile
from train.vocab import Vocabulary

# What the server takes.
MAX_INT = 2**31 - 1
SCALE = (1e-6, 1e12)
FLAG_BOUNDS = {"ctx_len": (1, MAX_INT), "head_size_divisor": SCALE, "rope_rescale": SCALE, "rope_rebase": SCALE}
# The exponent bits of each type; all of them set means infinite or NaN.
EXPONENT = {"BF16": ("<u2", 0x7F80), "F16": ("<u2", 0x7C00), "F32": ("<u4", 0x7F800000)}


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help=".pth file with the model's weights")
    parser.add_argument("vocabulary", type=Path, help="vocabulary in the RWKV World format")
    parser.add_argument("output", type=Path, help="model directory to make; must not exist")
    parser.add_argument("--use_v2", type=int, choices=(0, 1), help="Finch-C2: whether y has the second value")
    parser.add_argument("--use_one_minus_w", type=int, choices=(0, 1), help="Finch-C2: whether k is scaled by 1 - w")
    parser.add_argument("--rope", metavar="BASE|none", help="GOLD: base of the rotation, or none (most checkpoints)")
    parser.add_argument("--rope_rescale", type=float, default=1.0)
    parser.add_argument("--rope_rebase", type=float, default=1.0)
    parser.add_argument("--ctx_len", type=int, help="training length in tokens (information, not a limit)")
    parser.add_argument("--head_size_divisor", type=int, default=8, help="Finch: scales the epsilon of its head norm")
    parser.add_argument("--drop_unknown", action="store_true", help="leave out tensors the model does not use")
    return parser.parse_args(argv)


def complete_config(config: dict[str, object], args: argparse.Namespace) -> dict[str, object]:
    """Adds what the flags say; names every flag this checkpoint needs and did not get."""
    is_c2, is_gold = config["tmix"] == "x060c2", config["tmix2"] == "gold"
    needed = {"use_v2": is_c2, "use_one_minus_w": is_c2, "rope": is_gold, "ctx_len": True}
    missing = [f"--{flag}" for flag, needs in needed.items() if needs and getattr(args, flag) is None]
    if missing:
        raise CheckpointError(f"its shapes do not tell {', '.join(missing)}: give the values it was trained with")
    for flag, (least, most) in FLAG_BOUNDS.items():
        value = getattr(args, flag)
        if not least <= value <= most:
            raise CheckpointError(f"--{flag} is {value}; it must be from {least:.10g} to {most:.10g}")
    return {
        **config,
        "head_size_divisor": args.head_size_divisor,
        "ctx_len": args.ctx_len,
        # Plain Finch has neither; 1 is what its authors' configurations say.
        "use_one_minus_w": 1 if args.use_one_minus_w is None else args.use_one_minus_w,
        "use_v2": 1 if args.use_v2 is None else args.use_v2,
        "rope": rope_of(args) if is_gold else None,
    }


def rope_of(args: argparse.Namespace) -> dict[str, float] | None:
    if args.rope == "none":
        return None
    try:
        base = float(args.rope)
    except ValueError:
        base = math.nan
    least, most = SCALE
    if not least <= base <= most:
        raise CheckpointError(f"--rope is '{args.rope}'; it must be none or a base from {least:g} to {most:g}")
    return {"base": base, "rescale": args.rope_rescale, "rebase": args.rope_rebase}


def check_vocabulary(path: Path, vocab_size: int) -> None:
    try:
        vocabulary = Vocabulary.read(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the vocabulary cannot be used: {error}") from None
    largest = max(vocabulary.tokens)
    if largest >= vocab_size:
        raise CheckpointError(f"the vocabulary has id {largest}; the checkpoint has ids up to {vocab_size - 1}")


def check_finite(name: str, dtype: str, data: bytes) -> None:
    kind, exponent = EXPONENT[dtype]
    if bool(((np.frombuffer(data, kind) & exponent) == exponent).any()):
        raise CheckpointError(f"{name} holds a NaN or an infinite number")


def write_safetensors(checkpoint: PthFile, names: list[str], file: BinaryIO) -> None:
    """Header length, JSON header padded to 8 bytes, then the tensors one after another without holes."""
    header: dict[str, object] = {}
    end = 0
    for name in names:
        tensor = checkpoint.tensors[name]
        start, end = end, end + tensor.num_bytes
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for name in names:
        data = checkpoint.data(name)
        check_finite(name, checkpoint.tensors[name].dtype, data)
        file.write(data)


def convert(args: argparse.Namespace) -> str:
    """Writes the model directory and returns one line about it."""
    if args.output.exists():
        raise CheckpointError(f"{args.output} exists already")
    checkpoint = PthFile(args.checkpoint)
    shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    config = infer_config(shapes)
    unknown = check_tensors(shapes, config)
    if unknown and not args.drop_unknown:
        raise CheckpointError(
            f"{len(unknown)} tensors are no part of such a model ({', '.join(unknown[:4])}); "
            "--drop_unknown leaves them out"
        )
    config = complete_config(config, args)
    check_vocabulary(args.vocabulary, config["vocab_size"])

    # The directory appears under its name only when it is complete.
    partial = args.output.with_name(args.output.name + ".partial")
    try:
        partial.mkdir(parents=True)
    except FileExistsError:
        raise CheckpointError(f"{partial} is left from an earlier try; remove it") from None
    try:
        with open(partial / "model.safetensors", "wb") as file:
            write_safetensors(checkpoint, [name for name in shapes if name not in unknown], file)
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        shutil.copyfile(args.vocabulary, partial / "vocab.txt")
        os.rename(partial, args.output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        checkpoint.close()
    kind = f"{config['tmix']}{' + ' + config['tmix2'] if config['tmix2'] else ''}"
    return f"{args.output}: {kind}, {config['n_layer']} layers of {config['n_embd']}, {config['vocab_size']} ids"


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        print(convert(args))
    except CheckpointError as error:
        print(f"convert_checkpoint: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"convert_checkpoint: {error.strerror}: {error.filename}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
