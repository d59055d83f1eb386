"""The cost of attention by the number of genes: exact, criss-cross and performer, forward and with the backward pass.

One cell through a trunk of two blocks as wide as `preset("small")`'s, in float32 on the CPU and in bfloat16 on a GPU,
each length in a process of its own, so that its memory is its own. On the CPU a point that would take over a minute or
over 8 GiB is left out; its row then says what the curve leads to. `--point JSON` is one such process.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SEED = 0
LAYERS = 2
KINDS = ("exact", "criss-cross", "performer")
PASSES = ("forward", "forward and backward")
LENGTHS = tuple(1_024 << i for i in range(6))  # 1,024 to 32,768 genes
MOST_SECONDS, MOST_MIB = 60.0, 8_192.0
REPEATS, ENOUGH = 5, 2.0
"""Times a point is timed at most, and seconds after which it is not timed again."""
LEFT_OUT = "extrapolated, not measured"
COLUMNS = ("attention", "genes", "seconds", "times_exact", "peak_mib", "memory_times_exact")
NOTES = (
    "seconds: the median of up to five passes after one that is not counted, or that one where it took two seconds; "
    "on the CPU they are CPU-seconds of one thread. peak_mib: on the CPU what the process's peak rose by over the "
    "loaded trunk; on a GPU the most that tensors took, the trunk included. times_exact: exact attention's seconds "
    "over this kind's in the same run, so above 1 is faster; memory_times_exact likewise.",
    "Rows that are extrapolated were not measured: seconds and memory follow the last two measured lengths as a power "
    "law of exponent 2 at most. Ratios are of measured rows only.",
)


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    """Return the rows of the CPU, and of the GPU where there is one."""
    import torch

    lengths, kinds = ((128, 256), KINDS[:2]) if quick else (LENGTHS, KINDS)
    names = {"cpu": "CPU, one thread"}
    if torch.cuda.is_available():
        names["cuda"] = torch.cuda.get_device_name()
    rows = []
    for device, name in names.items():
        curves = [curve(device, kind, lengths) for kind in kinds]
        for done in PASSES:
            mine = [row for found in curves for row in found[done]]
            rows += [{"table": f"{done}, {name}"} | row for row in with_ratios(mine)]
    if len(names) == 1:
        rows.append({"table": "on a GPU", "note": "not run: no GPU"})
    return rows


def curve(device: str, kind: str, lengths: tuple[int, ...]) -> dict[str, list[dict[str, Any]]]:
    """Return one kind's rows by pass, from the shortest to the longest context."""
    out: dict[str, list[dict[str, Any]]] = {done: [] for done in PASSES}
    for genes in lengths:
        guesses = {done: extrapolated(rows, genes) for done, rows in out.items()}
        bounded = device == "cpu"
        left_out = {done: guess for done, guess in guesses.items() if bounded and guess and too_much(guess)}
        found = point(device, kind, genes, [done for done in PASSES if done not in left_out])
        for done, rows in out.items():
            extra = left_out[done] | {"note": LEFT_OUT} if done in left_out else found[done]
            rows.append({"attention": kind, "genes": genes} | extra)
            print(f"{device} {kind} {genes} {done}: {extra}", file=sys.stderr, flush=True)
    return out


def too_much(guess: dict[str, float]) -> bool:
    """Return whether a point is beyond what the CPU is given."""
    return guess["seconds"] > MOST_SECONDS or guess["peak_mib"] > MOST_MIB


def extrapolated(rows: list[dict[str, Any]], genes: int) -> dict[str, float]:
    """Return what a kind's last two measured rows lead to at another length; nothing where there are fewer."""
    measured = [row for row in rows if "note" not in row][-2:]
    if len(measured) < 2:
        return {}
    first, last = measured
    out, step = {}, math.log(last["genes"] / first["genes"])
    for name in ("seconds", "peak_mib"):
        exponent = math.log(max(last[name], 1e-9) / max(first[name], 1e-9)) / step
        out[name] = round(last[name] * (genes / last["genes"]) ** min(max(exponent, 0.0), 2.0), 4)
    return out


def with_ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows with exact attention's seconds and memory over theirs, where both were measured."""
    exact = {row["genes"]: row for row in rows if row["attention"] == "exact" and "note" not in row}
    names = {"times_exact": "seconds", "memory_times_exact": "peak_mib"}
    for row in rows:
        beside = exact.get(row["genes"])
        if beside and "note" not in row and row["attention"] != "exact":
            row |= {new: round(beside[name] / row[name], 2) for new, name in names.items() if row[name]}
    return rows


def point(device: str, kind: str, genes: int, passes: list[str]) -> dict[str, dict[str, Any]]:
    """Return seconds and peak memory by pass, measured in a process of its own."""
    if not passes:
        return {}
    asked = {"device": device, "kind": kind, "genes": genes, "passes": passes}
    command = [sys.executable, "-P", str(Path(__file__).resolve()), "--point", json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return {one: {"note": f"failed: {said[:120]}"} for one in passes}
    return json.loads(done.stdout.splitlines()[-1])


def measure(device: str, kind: str, genes: int, passes: list[str]) -> dict[str, dict[str, float]]:
    """Return seconds and peak memory of a trunk over one cell by pass, in this process, the smallest pass first."""
    import torch

    from model import make_ragged, preset
    from model.trunk import Trunk

    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    config = preset("small").changed(trunk={"attention": kind, "layers": LAYERS})
    trunk, there = Trunk(config.trunk, config.cell.width).to(device), device != "cpu"
    clock = time.perf_counter if there else time.process_time

    def step(size: int, done: str) -> float:
        x, rows = torch.randn(size, config.trunk.width, device=device), make_ragged([size], device)
        trunk.zero_grad(set_to_none=True)
        if there:
            torch.cuda.synchronize()
        began = clock()
        with torch.set_grad_enabled(done == PASSES[1]), torch.autocast("cuda", torch.bfloat16, enabled=there):
            out = trunk(x, rows)
        if done == PASSES[1]:
            out.float().square().mean().backward()
        if there:
            torch.cuda.synchronize()
        return clock() - began

    for done in passes:
        step(64, done)  # libraries are loaded
    before, found = 0 if there else _peak_mib(there), {}
    for done in passes:
        times = [step(genes, done)]
        while len(times) <= REPEATS and sum(times) < ENOUGH:
            times.append(step(genes, done))
        peak = _peak_mib(there) - before
        found[done] = {"seconds": round(statistics.median(times[1:] or times), 4), "peak_mib": round(peak, 1)}
    return found


def _peak_mib(there: bool) -> float:
    """Return the largest memory so far: of tensors on the GPU, else of this process."""
    import torch

    if there:
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    if found := [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]:
        return found[0] / 2**10
    # A child's begins at its parent's, so this is only the answer where there is no /proc.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--point", type=json.loads, required=True, help="device, kind, both and genes, as JSON")
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    print(json.dumps(measure(**parser.parse_args().point)))
