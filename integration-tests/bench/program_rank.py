"""program_rank.py NET STATE BATCHES default|fused DEVICE: what kindling-steps does, in PyTorch. See programs.py."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from nets import NETS
from safetensors.torch import load_file
from torch import nn


def status(field: str) -> float:
    """A figure of this process's memory, in kB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return float(line.split()[1])
    raise OSError("the kernel does not tell memory")


def answer(value: dict[str, object]) -> None:
    print(json.dumps(value), flush=True)


def main() -> None:
    name, state, batches_file, optimizer_name, device = sys.argv[1:]
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False  # as Kindling has it: float32 is float32
    batches = load_file(batches_file)
    labels = batches.pop("y")
    inputs = [batches[f"x{i}"] for i in range(len(batches))]
    net = NETS[name].module()
    net.load_state_dict(torch.load(state))
    Path("/proc/self/clear_refs").write_text("5")
    before = status("RssAnon")
    net.to(device)
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-3, weight_decay=0.01, fused=optimizer_name == "fused")
    next_step = 0
    answer({})
    for line in sys.stdin:
        command, _, count = line.strip().partition(" ")
        if command == "peak":
            # The kernel keeps the peak of anonymous memory and files together; pages of files only become more.
            answer({"peak_mb": (status("VmHWM") - status("RssFile") - before) / 1024})
            continue
        losses = []
        begun = time.perf_counter()
        for step in range(next_step, next_step + int(count)):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(*(x[step].to(device) for x in inputs)), labels[step].to(device))
            losses.append(loss.item())
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        seconds = time.perf_counter() - begun
        next_step += int(count)
        answer({"seconds": seconds, "losses": losses})


if __name__ == "__main__":
    main()
