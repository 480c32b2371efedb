"""GoldFinch in plain PyTorch, measured: the peer that goldfinch-bench is held beside.

    torch_reference.py --shape=24x2048                  # random weights; or --model=DIR
    torch_reference.py --verify=tests/golden            # that what is measured is the model

Every decoded token rebuilds the keys and values of its whole past from the compressed cache, as the paper's code
does; goldfinch-bench has cases of the same names. Figures are medians after a warm-up, on one stream, without
compilation or graphs. Decoding starts from a cache that was filled, not computed: its time does not depend on
values. Memory is the most that PyTorch held on a GPU, and the most that was resident on a CPU, weights included.
Exit codes: 0 done, 1 a case failed or the input cannot be used, 2 wrong flags.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from goldfinch_torch import Config, GoldFinch, State

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
TOLERANCES = {"f32": 2e-3, "bf16": 3e-2}  # of `goldfinch verify`
WARM_UP = 2


@dataclasses.dataclass
class Row:
    """One figure, with the name that goldfinch-bench has for it."""

    name: str
    measured: float
    unit: str
    peak_bytes: int


class PeakMemory:
    """The most memory in use since it was made."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            try:
                Path("/proc/self/clear_refs").write_text("5")
            except OSError:
                pass  # then it is the most since the process started

    def bytes(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        try:
            status = Path("/proc/self/status").read_text()
            return 1024 * int(re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)[1])
        except (OSError, TypeError):
            return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        values = [int(part) for part in text.split(",") if part]
        if any(value < 1 for value in values):
            raise ValueError
        return values

    def at_least(least: int) -> Callable[[str], int]:
        def number(text: str) -> int:
            value = int(text) if re.fullmatch(r"\d{1,9}", text) else -1
            if value < least:
                raise argparse.ArgumentTypeError(f"{text} is no whole number from {least} on")
            return value

        return number

    def device(text: str) -> torch.device:
        if not re.fullmatch(r"(cpu|cuda)(:\d{1,3})?", text):
            raise argparse.ArgumentTypeError(f"{text} is no device; it must be cpu, cuda or cuda:N")
        if text.startswith("cuda") and int(text[5:] or 0) >= torch.cuda.device_count():
            raise argparse.ArgumentTypeError(f"this torch sees {torch.cuda.device_count()} GPUs, and no {text}")
        return torch.device(text)

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--shape", default="12x768", help="LAYERSxWIDTH of a random model")
    what.add_argument("--model", type=Path, help="a model directory instead of --shape")
    what.add_argument("--verify", type=Path, help="measure nothing: compare with a folder of golden cases")
    parser.add_argument("--case", default=".*", help="with --verify: only cases whose name matches this regex")
    parser.add_argument("--device", type=device, help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="default: bf16, and f32 with --verify")
    parser.add_argument("--batches", type=numbers, default=[1, 16], help="sequences that decode together")
    parser.add_argument("--contexts", type=numbers, default=[1024, 32768], help="tokens before the decoded ones")
    parser.add_argument("--prefill", type=numbers, default=[1024, 32768], help="tokens of a prompt")
    parser.add_argument("--steps", type=at_least(1), default=20, help="decode steps of a case, at most")
    parser.add_argument("--case_seconds", type=float, default=30, help="a case ends when it has taken so long")
    parser.add_argument("--threads", type=at_least(0), default=0, help="of a CPU; 0: PyTorch's choice")
    parser.add_argument("--json", action="store_true", help="only JSON lines on stdout")
    args = parser.parse_args(argv)
    if args.device is None:
        args.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    args.dtype = args.dtype or ("f32" if args.verify else "bf16")
    shape = re.fullmatch(r"(\d{1,4})x(\d{1,5})", args.shape)
    if not shape or int(shape[1]) < 2 or int(shape[2]) < 64 or int(shape[2]) % 64:
        parser.error(f"--shape is {args.shape}; it must be LAYERSxWIDTH, as in 24x2048: from 2 on, and a multiple of 64")
    return args


class Bench:
    def __init__(self, model: GoldFinch, args: argparse.Namespace) -> None:
        self.model, self.args = model, args

    def run(self) -> None:
        if not self.args.json:
            print(f"{'case':<32} {'measured':>14} {'unit':<10} {'peak MB':>10}")
        for count in self.args.prefill:
            self.case(f"prefill/t:{count}", self.prefill, count)
        for context in self.args.contexts:
            for batch in self.args.batches:
                self.case(f"decode/ctx:{context}/batch:{batch}", self.decode, context, batch)

    def case(self, name: str, measure: Callable[..., float], *sizes: int) -> None:
        """One row; a case that does not fit the memory is skipped, and said."""
        print(f"{name} ...", file=sys.stderr, flush=True)
        need, free = self.rebuilt_bytes(*sizes), free_bytes(self.model.device)
        if need > free:
            print(f"{name}: skipped: needs {need / 1e9:.0f} GB; {free / 1e9:.0f} GB are free", file=sys.stderr)
            return
        peak = PeakMemory(self.model.device)
        try:
            measured = measure(*sizes)
        except torch.OutOfMemoryError:
            print(f"{name}: skipped: it does not fit the device's memory", file=sys.stderr)
            return
        finally:
            if self.model.device.type == "cuda":
                torch.cuda.empty_cache()
        self.report(Row(name, measured, "tokens/s", peak.bytes()))

    def rebuilt_bytes(self, tokens: int, batch: int = 1) -> int:
        """About what rebuilding keys and values takes: eight of the past's tensors at a time, some in float32."""
        return tokens * batch * self.model.cfg.n_embd * 8 * 3

    def prefill(self, count: int) -> float:
        """Tokens of one prompt a second, from its first token to the logits of its last."""
        prompt = self.random_tokens(1, count)

        def once() -> float:
            state = self.model.state(1, count)
            return self.seconds(lambda: self.model.prefill(prompt, state))

        self.model.prefill(prompt[:, :2048], self.model.state(1, count))  # warm-up
        return count / self.median(once, 5)

    def decode(self, context: int, batch: int) -> float:
        """Tokens a second of `batch` sequences together, greedily."""
        model, steps = self.model, self.args.steps
        state = self.filled_state(batch, context, context + steps + WARM_UP)
        token = self.random_tokens(batch, 1)

        def step() -> float:
            nonlocal token
            begin = self.now()
            token = model.forward(token, state).argmax(-1)
            return self.now() - begin

        for _ in range(WARM_UP):
            step()
        return batch / self.median(step, steps)

    def filled_state(self, batch: int, context: int, room: int) -> State:
        state = self.model.state(batch, room)
        if self.model.cfg.num_gold:
            state.tokens[:, :context] = self.random_tokens(batch, context)
            state.keys.fill_(0.25)
        state.length = context
        return state

    def random_tokens(self, batch: int, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        tokens = torch.randint(self.model.cfg.vocab_size, (batch, count), generator=generator)
        return tokens.to(self.model.device)

    def median(self, once: Callable[[], float], most: int) -> float:
        """Of up to `most` runs, and of at least one; none begins after --case_seconds."""
        times: list[float] = []
        while len(times) < most and (sum(times) < self.args.case_seconds or not times):
            times.append(once())
        return statistics.median(times)

    def seconds(self, work: Callable[[], object]) -> float:
        begin = self.now()
        work()
        return self.now() - begin

    def now(self) -> float:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        return time.perf_counter()

    def report(self, row: Row) -> None:
        if self.args.json:
            print(json.dumps(dataclasses.asdict(row)), flush=True)
        else:
            print(f"{row.name:<32} {row.measured:>14.1f} {row.unit:<10} {row.peak_bytes / 1e6:>10.0f}", flush=True)


def free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    available = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return 1024 * int(available[1])


@dataclasses.dataclass
class Verdict:
    """How far a golden case is off, and the greedy tokens that differ though their margin says they must not."""

    max_error: float
    agreed: int
    checked: int
    wrong: int


def verify_case(folder: Path, args: argparse.Namespace) -> Verdict:
    """Logits of a whole prompt at once, of the same prompt in segments and then token by token along the greedy
    ones, and the last logits of a long prompt."""
    from safetensors.torch import load_file

    model = GoldFinch.load(folder, DTYPES[args.dtype], args.device)
    expected = load_file(folder / "expected.safetensors")
    tokens, long_tokens, greedy = (
        expected[name].long()[None].to(args.device) for name in ("tokens", "long_tokens", "greedy")
    )
    count, last = tokens.shape[1], len(expected["long_last_logits"])
    whole = model.forward(tokens, model.state(1, count), outputs=count)[0].cpu()
    state = model.state(1, count + greedy.shape[1])
    cut = [model.prefill(tokens, state, segment=33)[0].cpu()]
    cut += [model.forward(greedy[:, i : i + 1], state)[0].cpu() for i in range(greedy.shape[1] - 1)]
    cut_logits = torch.cat(cut)
    long_logits = model.prefill(long_tokens, model.state(1, long_tokens.shape[1]), outputs=last, segment=256)[0].cpu()
    errors = [
        (whole - expected["logits"]).abs().max(),
        (cut_logits[0] - expected["logits"][-1]).abs().max(),
        (long_logits - expected["long_last_logits"]).abs().max(),
    ]
    differ = cut_logits.argmax(-1) != expected["greedy"]
    wrong = differ & (expected["greedy_margin"] > TOLERANCES[args.dtype])
    max_error = torch.stack(errors).nan_to_num(nan=torch.inf).max().item()
    return Verdict(max_error, int((~differ).sum()), len(differ), int(wrong.sum()))


def verify(args: argparse.Namespace) -> int:
    folders = sorted(path.parent for path in args.verify.glob("*/expected.safetensors"))
    folders = [folder for folder in folders if re.search(args.case, folder.name)]
    if not folders:
        print(f"torch_reference: no golden case in {args.verify} matches {args.case}", file=sys.stderr)
        return 1
    tolerance, failed = TOLERANCES[args.dtype], 0
    for folder in folders:
        verdict = verify_case(folder, args)
        good = verdict.max_error <= tolerance and verdict.wrong == 0
        failed += not good
        if args.json:
            print(json.dumps({"name": folder.name, "ok": good, **dataclasses.asdict(verdict)}), flush=True)
        else:
            print(
                f"{folder.name}: max_abs_error {verdict.max_error:.3e} (tolerance {tolerance:.0e}, {args.dtype}), "
                f"greedy_agreement {verdict.agreed}/{verdict.checked}{'' if good else '  FAILED'}",
                flush=True,
            )
    return 1 if failed else 0


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    with torch.inference_mode():
        if args.verify:
            return verify(args)
        if args.model:
            model = GoldFinch.load(args.model, DTYPES[args.dtype], args.device)
        else:
            layers, width = map(int, args.shape.split("x"))
            model = GoldFinch.random(Config(n_layer=layers, n_embd=width), DTYPES[args.dtype], args.device)
        Bench(model, args).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
