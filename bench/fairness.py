#!/usr/bin/env python3
"""Is one tenant's flood felt by nine others, and do two tenants share by their weights?

    bench/fairness.py [--bin=build/release/bin] [--model=models/demo] [--json]

Each case is a server of its own with a file of ten tenants, and goldfinch-load beside it. Nine tenants send short
requests at a fixed rate, at random moments. The rest is long requests, near the longest that the server takes:

  flood   the tenth tenant has as many of them open as its limits accept, nearly all of which wait
  even    all ten tenants send them, and a tenth of the short ones each: as many as there are slots, less what the
          short ones need, so none waits for a slot. Short ones have a higher priority, so that none stands behind a
          long one of its own tenant either
  short   the same tokens a second as `flood` had, but all of them in short requests of ten tenants; `flood` comes first
  alone   the nine without anybody else

`flood` and `even` keep the server as busy as it can be; their tokens a second are printed beside each other. What
counts is the ratio of what the nine see in `flood` to what they see in `even`: the 99th percentile of the time to the
first token and of the time between tokens. Cases take turns for --rounds rounds; the ratio is the median of those of
the rounds. A run in which a request of the nine does not finish ends it all: times are of what was answered, so who
starves would look fast.

  weights  two tenants of weights 1 and 3 with requests of the same two lengths, 16 or more of each tenant always
           waiting: what part of the tokens that pass through the model each gets, by the server's own count
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import pathlib
import re
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[1]
NINE = [f"tenant{i}" for i in range(1, 10)]
ALL = ["tenant0", *NINE]
SLOTS = 32
SPARE_SLOTS = 12  # of them, for the short requests of `even`
MAX_CONTEXT = 4096
SHORT = {"prompt_tokens": 64, "max_tokens": 32, "priority": 1}  # before the long ones of the same tenant
LONG = {"prompt_tokens": MAX_CONTEXT - 512, "max_tokens": 512}
WEIGHTS = {"tenant0": 1, "tenant1": 3}
QUEUED = 16
COMPARED = ("first_token", "inter_token")


class Server:
    """A server process with ten tenants, on ports of its own."""

    def __init__(self, options: argparse.Namespace, folder: pathlib.Path, weights: dict[str, float], *flags: str):
        self.keys = {name: secrets.token_hex(16) for name in ALL}
        tenants = [{"name": name, "key_sha256": [hashlib.sha256(key.encode()).hexdigest()],
                    "weight": weights.get(name, 1)} for name, key in self.keys.items()]
        path = folder / "tenants.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps({"tenants": tenants}), encoding="utf-8")
        self.process = subprocess.Popen(
            [options.bin / "goldfinch-server", f"--model={options.model}", f"--tenants_file={path}",
             "--listen=127.0.0.1:0", "--metrics=127.0.0.1:0", f"--threads={options.threads}",
             f"--step_tokens={options.step_tokens}", f"--max_context_tokens={MAX_CONTEXT}", "--cache_bytes=64MiB",
             "--expanded_bytes=1GiB", *flags],
            stderr=subprocess.PIPE, text=True)
        self.port = self.metrics_port = 0
        while not (self.port and self.metrics_port):
            line = self.process.stderr.readline()
            if not line:
                raise SystemExit(f"the server did not start: exit code {self.process.wait()}")
            for name, what in (("port", "serving on port"), ("metrics_port", "metrics on port")):
                if found := re.search(rf"{what} (\d+)", line):
                    setattr(self, name, int(found[1]))
        threading.Thread(target=self.process.stderr.read, daemon=True).start()  # a full pipe would stop it

    def metrics(self) -> dict[str, float]:
        """Value of each series, by its name with labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}

    def stop(self):
        for _ in range(2):  # the second one ends what runs
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=2)
                return
        self.process.wait(timeout=60)


@contextlib.contextmanager
def serving(options: argparse.Namespace, weights: dict[str, float] | None = None, *flags: str) -> Iterator[tuple]:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(options, pathlib.Path(folder), weights or {}, *flags)
        try:
            yield server, pathlib.Path(folder)
        finally:
            server.stop()


def drive(options: argparse.Namespace, server: Server, folder: pathlib.Path, entries: list[dict], on_sample=None) -> dict:
    """One run of goldfinch-load: its report, and the server's counts over the window under "served"."""
    for entry in entries:
        entry["key"] = server.keys[entry.pop("tenant")]
    path = folder / "scenario.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps({"duration_seconds": options.seconds, "warmup_seconds": options.warmup,
                                "tail_seconds": 30, "seed": options.seed, "tenants": entries}), encoding="utf-8")
    load = subprocess.Popen([options.bin / "goldfinch-load", "run", path, f"--server=127.0.0.1:{server.port}", "--json"],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    at = {}
    errors = []

    def follow():
        for line in load.stderr:
            errors.append(line)
            for moment in ("begins", "ends"):
                if f"the window {moment}" in line:
                    at[moment] = server.metrics()

    follower = threading.Thread(target=follow)
    follower.start()
    while on_sample is not None and load.poll() is None and "ends" not in at:
        if "begins" in at:
            on_sample(server.metrics())
        time.sleep(0.25)
    out = load.stdout.read()
    follower.join()
    if load.wait() != 0:
        raise SystemExit("".join(errors))
    report = json.loads(out)
    report["served"] = {
        name: sum(at["ends"][series] - at["begins"][series] for series in at["ends"]
                  if series.startswith("goldfinch_tenant_tokens_total") and f'tenant="{name}"' in series)
        for name in ALL}
    report["put_aside"] = sum(at["ends"][series] - at["begins"][series] for series in at["ends"]
                              if series.startswith("goldfinch_tenant_put_aside_total"))
    return report


def short_ones(tenants: list[str], rate: float) -> list[dict]:
    """Together `rate` requests a second; those of the nine are what is looked at."""
    return [{"tenant": name, "name": f"{name}-short", "rate": rate / len(tenants), **SHORT,
             "group": "nine" if name in NINE else "tenth"} for name in tenants]


def run_case(options: argparse.Namespace, case: str, tokens_per_second: float) -> dict:
    rate = options.rate * len(NINE)
    if case == "flood":
        # Its 512 queued, its running ones, and some that are refused and come again.
        entries = [{"tenant": "tenant0", "name": "flood", "concurrent": 512 + SLOTS + 16, **LONG}]
        entries += short_ones(NINE, rate)
    elif case == "even":
        entries = [{"tenant": name, "name": f"{name}-long", "concurrent": (SLOTS - SPARE_SLOTS) // len(ALL), **LONG}
                   for name in ALL]
        entries += short_ones(ALL, rate)
    elif case == "short":
        entries = short_ones(ALL, tokens_per_second / (SHORT["prompt_tokens"] + SHORT["max_tokens"]))
    else:
        entries = short_ones(NINE, rate)
    with serving(options, None, f"--max_sequences={SLOTS}") as (server, folder):
        report = drive(options, server, folder, entries)
    nine = next(group for group in report["groups"] if group["name"] == "nine")
    return {"case": case, "tokens_per_second": sum(report["served"].values()) / options.seconds,
            "requests": nine["requests"], "finished": nine["finished"], "unanswered": nine["unanswered"],
            "failed": nine["failed"], "put_aside": report["put_aside"],
            "first_token": nine["first_token_seconds"], "inter_token": nine["inter_token_seconds"]}


def why_worthless(result: dict) -> str:
    """Why what the nine saw is no figure to compare; empty if it is one."""
    if result["finished"] < result["requests"]:
        return f"only {result['finished']} of {result['requests']} requests of the nine finished"
    if not all(result[what]["p99"] > 0 for what in COMPARED):
        return f"{result['requests']} requests of the nine are too few"
    return ""


def run_weights(options: argparse.Namespace) -> dict:
    waiting = {name: [] for name in WEIGHTS}

    def look(metrics: dict[str, float]):
        for name, seen in waiting.items():
            seen.append(metrics[f'goldfinch_tenant_requests_waiting{{tenant="{name}"}}'])

    # Of two lengths, so that the two tenants do not run in step.
    entries = [{"tenant": name, "name": f"{name}-{prompt}", "concurrent": 24, "prompt_tokens": prompt, "max_tokens": output}
               for name in WEIGHTS for prompt, output in ((128, 64), (300, 25))]
    with serving(options, WEIGHTS, "--max_sequences=8") as (server, folder):
        report = drive(options, server, folder, entries, look)
    served = sum(report["served"].values())
    result = {"case": "weights", "tokens_per_second": served / options.seconds, "put_aside": report["put_aside"]}
    for name, weight in WEIGHTS.items():
        share = report["served"][name] / served
        fair = weight / sum(WEIGHTS.values())
        result[name] = {"weight": weight, "share": share, "off_by": share / fair - 1, "least_waiting": min(waiting[name])}
        if result[name]["least_waiting"] < QUEUED:
            raise SystemExit(f"only {result[name]['least_waiting']} requests of {name} waited: the run says nothing")
    return result


def show(options: argparse.Namespace, result: dict):
    if options.json:
        print(json.dumps(result), flush=True)
    elif result["case"] == "weights":
        for name in WEIGHTS:
            row = result[name]
            print(f"weights  {name} weight {row['weight']}: {100 * row['share']:.2f}% of {result['tokens_per_second']:.0f}"
                  f" tokens/s, {100 * row['off_by']:+.2f}% off; at least {row['least_waiting']:.0f} waited", flush=True)
    else:
        first, inter = ([1e3 * summary[q] for q in ("p50", "p99")] for summary in
                        (result["first_token"], result["inter_token"]))
        print(f"{result['case']:8} {result['tokens_per_second']:7.0f} tokens/s; nine: {result['finished']} of"
              f" {result['requests']} requests, first token p50 {first[0]:.1f} p99 {first[1]:.1f} ms,"
              f" next p50 {inter[0]:.1f} p99 {inter[1]:.1f} ms; put aside {result['put_aside']:.0f} times", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin")
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "models/demo")
    parser.add_argument("--cases", default="flood,even,short,alone,weights")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30, help="of a window")
    parser.add_argument("--warmup", type=float, default=20, help="seconds before it")
    parser.add_argument("--rate", type=float, default=1, help="short requests a second of each of the nine")
    parser.add_argument("--threads", type=int, default=1, help="of the server's engine")
    parser.add_argument("--step_tokens", type=int, default=512)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one object a line")
    options = parser.parse_args()
    cases = options.cases.split(",")
    if unknown := set(cases) - {"flood", "even", "short", "alone", "weights"}:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    if "short" in cases and "flood" not in cases[:cases.index("short")]:
        parser.error("the case short needs flood before it, whose tokens a second it has")
    ratios = {(case, what): [] for case in cases for what in COMPARED}
    for _ in range(options.rounds):
        results = {}
        for case in cases:
            if case == "weights":
                show(options, run_weights(options))
                continue
            results[case] = run_case(options, case, results["flood"]["tokens_per_second"] if case == "short" else 0)
            show(options, results[case])
            if why := why_worthless(results[case]):
                raise SystemExit(f"{case}: {why}: the run says nothing")
        if flood := results.pop("flood", None):
            for case, result in results.items():
                for what in COMPARED:
                    ratios[case, what].append(flood[what]["p99"] / result[what]["p99"])
    for (case, what), values in ratios.items():
        if values:
            show_ratio = {"ratio": f"flood/{case}", "of": f"{what} p99", "median": statistics.median(values), "all": values}
            print(json.dumps(show_ratio) if options.json else
                  f"flood / {case}: {what} p99 {show_ratio['median']:.2f} ({', '.join(f'{value:.2f}' for value in values)})")


if __name__ == "__main__":
    sys.exit(main())
