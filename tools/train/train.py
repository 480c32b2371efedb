"""Trains a GoldFinch on a folder of books for a given time, and exports a model directory as it goes.

    python3 train.py --books BOOKS --held_out The-Secret-Garden_113.txt --vocab vocab.txt --out models/demo --minutes 80
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data import Windows, training_tokens
from evaluate import load_model, text_loss
from export import export
from initialise import initialise
from model import Config, GoldFinch
from sample import continue_prompt
from vocab import Vocabulary

WARM_UP = 0.03  # part of the time
FINAL_LR = 0.03  # part of the peak
WEIGHT_DECAY = 0.1


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--books", type=Path, required=True, help="folder of .txt files")
    parser.add_argument("--held_out", required=True, help="file name of the validation text, never trained on")
    parser.add_argument("--vocab", type=Path, required=True, help="vocabulary file, from vocab.py")
    parser.add_argument("--out", type=Path, required=True, help="model directory to write")
    parser.add_argument("--minutes", type=float, required=True, help="wall time of the whole schedule")
    parser.add_argument("--start_from", type=Path, help="model directory to go on from (weights, not optimizer state)")
    parser.add_argument("--n_layer", type=int, default=6)
    parser.add_argument("--n_embd", type=int, default=256)
    parser.add_argument("--ctx_len", type=int, default=512)
    parser.add_argument("--batch", type=int, default=16, help="windows per step")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--export_minutes", type=float, default=8, help="time between validations and exports")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="torch.compile: faster, needs a C++ compiler")
    args = parser.parse_args()
    for flag, least in (("n_layer", 2), ("ctx_len", 2), ("batch", 1)):
        if getattr(args, flag) < least:
            parser.error(f"--{flag} is {getattr(args, flag)}; it must be at least {least}")
    head_size = Config.head_size
    if args.n_embd < 1 or args.n_embd % head_size:
        parser.error(f"--n_embd is {args.n_embd}; it must be a multiple of {head_size}, the size of a head")
    return args


def make_optimizers(model: GoldFinch, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the dense matrices inside the blocks, AdamW for everything else.

    Muon learns dense matrices from fewer tokens, and tokens are what a CPU is short of. Its orthogonal steps suit
    neither embeddings, head nor vectors. Both make steps of the same size for the same rate.
    """
    dense = [module.weight for module in model.blocks.modules() if isinstance(module, nn.Linear)]
    rest = [p for p in model.parameters() if all(p is not d for d in dense)]
    decayed = [p for p in rest if p.dim() == 2]
    kept = [p for p in rest if p.dim() != 2]
    return [
        torch.optim.Muon(dense, lr=lr, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(
            [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": kept, "weight_decay": 0.0}],
            lr=lr,
            betas=(0.9, 0.99),
            fused=True,
        ),
    ]


def lr_factor(progress: float) -> float:
    """Linear warm-up, then a cosine; `progress` is the part of the time that has passed."""
    if progress < WARM_UP:
        return max(progress / WARM_UP, 0.01)
    cosine = 0.5 + 0.5 * math.cos(math.pi * min((progress - WARM_UP) / (1 - WARM_UP), 1))
    return FINAL_LR + (1 - FINAL_LR) * cosine


def loss_of(model: nn.Module, windows: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(windows[:, :-1])
    return F.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten())


def main() -> None:
    args = parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    vocabulary = Vocabulary.read(args.vocab)
    tokens = training_tokens(args.books, args.held_out, vocabulary)
    held_out = vocabulary.encode((args.books / args.held_out).read_bytes())
    windows = Windows(tokens, args.ctx_len, args.batch, torch.Generator().manual_seed(args.seed))

    cfg = Config(
        n_layer=args.n_layer,
        n_embd=args.n_embd,
        dim_att=args.n_embd,
        vocab_size=max(vocabulary.tokens) + 1,
        ctx_len=args.ctx_len,
    )
    if args.start_from:
        model = load_model(args.start_from)
        if model.cfg != cfg:
            raise SystemExit(f"train: {args.start_from} has {model.cfg}, the flags ask for {cfg}")
    else:
        model = GoldFinch(cfg)
        initialise(model)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters} parameters, {len(tokens)} training tokens", flush=True)
    compiled = torch.compile(model) if args.compile else model
    optimizers = make_optimizers(model, args.lr)

    loss_of(compiled, windows.next()).backward()  # compiles; the clock below measures training only
    start = reported = exported = time.monotonic()
    step, seen, recent = 0, 0, []
    while (progress := (time.monotonic() - start) / (60 * args.minutes)) < 1:
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = args.lr * lr_factor(progress)
        batch = windows.next()
        loss = loss_of(compiled, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        seen += args.batch * args.ctx_len
        recent.append(loss.item())

        now = time.monotonic()
        if now - reported > 30:
            reported = now
            mean = sum(recent) / len(recent)
            recent.clear()
            print(
                f"{(now - start) / 60:5.1f} min  step {step}  tokens {seen}  loss {mean:.3f}  "
                f"lr {args.lr * lr_factor(progress):.1e}  {seen / (now - start):.0f} tokens/s",
                flush=True,
            )
        if now - exported > 60 * args.export_minutes:
            export(model, args.vocab, args.out)
            print(f"exported: {text_loss(model, vocabulary, held_out, cfg.ctx_len, windows=40)}", flush=True)
            print(continue_prompt(model, vocabulary, "Once upon a time", 50, 0.8, 0.95, seed=1), flush=True)
            exported = time.monotonic()
    export(model, args.vocab, args.out)
    minutes = (time.monotonic() - start) / 60
    print(f"done: {step} steps, {seen} tokens, {minutes:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
