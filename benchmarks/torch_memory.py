"""Memory of training in PyTorch: what a process holds at most, per parameter, beyond the model itself.

Each contender is a process of its own: 25 matrices of 1024 x 1024 (26M parameters), three training steps
of a few rows.  What it held at most (Linux's own figure) less what it held with the model made.  Gradients
are 4 bytes a parameter wherever they exist all at once; the state is 4, 2 or 1.

Target: the bytes that the formats say, to half a byte.

    python benchmarks/torch_memory.py [--quick] [--json [FILE]]
"""

import json
import os
import subprocess
import sys

from peers import Missing, require_torch
from tables import Report, main

LAYERS, WIDTH = 25, 1024
CODE = """
import json, torch
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return {k: int(next(l for l in lines if l.startswith(k)).split()[1]) * 1024 for k in ("VmHWM", "VmRSS")}
from rmsprop.torch import RMSprop, step_in_backward
torch.set_num_threads(1)
def make(layers, width):
    torch.manual_seed(0)
    return torch.nn.Sequential(*[torch.nn.Linear(width, width, bias=False) for _ in range(layers)])
def train(model, optimizer):
    for _ in range(3):
        model(torch.ones(2, model[0].in_features)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
def optimizer_of(model):
    return {MAKE}
small = make(2, 128)
train(small, optimizer_of(small))  # code is compiled and loaded
model = make({LAYERS}, {WIDTH})
start = peak()["VmRSS"]
open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
train(model, optimizer_of(model))
print(json.dumps((peak()["VmHWM"] - start) / sum(p.numel() for p in model.parameters())))
"""
OURS = {
    "torch RMSprop": ("torch.optim.RMSprop(model.parameters(), lr=1e-4)", None),
    "torch RMSprop, momentum": (
        "torch.optim.RMSprop(model.parameters(), lr=1e-4, momentum=.9)",
        None,
    ),
    "ours, float32": ("RMSprop(model.parameters(), lr=1e-4)", 8),
    "ours, bfloat16": ("RMSprop(model.parameters(), lr=1e-4, state_dtype=torch.bfloat16)", 6),
    "ours, 1 byte": ("RMSprop(model.parameters(), lr=1e-4, state_dtype=torch.uint8)", 5),
    "ours, 1 byte, momentum": (
        "RMSprop(model.parameters(), lr=1e-4, momentum=.9, state_dtype=torch.uint8)",
        7,
    ),
    "ours, 1 byte, step_in_backward": (
        "step_in_backward(model, lr=1e-4, state_dtype=torch.uint8)",
        1,
    ),
}


def measure(report: Report) -> None:
    try:
        require_torch()
    except Missing as reason:
        print(f"left out: {reason}")
        return
    if not os.path.exists("/proc/self/clear_refs"):
        print("left out: only Linux tells what a process held at most")
        return
    layers = 3 if report.quick else LAYERS
    print(f"\n{layers} matrices of {WIDTH} x {WIDTH}: bytes a parameter beyond the model, at most")
    for name, (make, expected) in OURS.items():
        code = CODE.replace("{MAKE}", make).replace("{LAYERS}", str(layers))
        found = bytes_a_parameter(code.replace("{WIDTH}", str(WIDTH)))
        print(f"  {name:<34}{found:6.2f}" + (f"   (its formats: {expected})" if expected else ""))
        row = {"case": f"{layers} x {WIDTH} x {WIDTH}", "contender": name, "bytes": found}
        report.rows.append(row | {"device": report.device, "quick": report.quick})
        if expected and not report.quick:
            claim = f"{name}: bytes a parameter beyond its formats"
            report.target(claim, found - expected, at_most=0.5)


def bytes_a_parameter(code: str) -> float:
    # At a fixed threshold glibc gives freed memory back at once.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    return float(json.loads(done.stdout))


if __name__ == "__main__":
    main("torch_memory", __doc__, measure)
