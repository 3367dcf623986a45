"""What computes: which device a word means, what it is called, the time once it is idle, and what it has of memory."""

from __future__ import annotations

import platform
import time

import torch

from layerlens.errors import ConfigError


def choose_device(word: str) -> torch.device:
    """The device that `cpu`, `cuda` or `auto` means here.

    Raises:
        ConfigError: there is no such device.
    """
    if word == "cpu" or (word == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(f"--device {word}: torch {torch.__version__} finds no CUDA device here; leave --device out")
    return torch.device("cuda", torch.cuda.current_device())


def device_name(device: torch.device) -> str:
    """What a device is called; of a processor, its kind."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()


def seconds_now(device: torch.device) -> float:
    """A clock for work of this thread, read once the device has done what it was asked to.

    Where a processor's one thread does all, its own time is what the work takes, however often other work has the processor
    meanwhile: on a starved machine seconds that pass say of a block what its neighbours did.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif torch.get_num_threads() == 1:
        return time.thread_time()
    return time.perf_counter()


def free_device_bytes(device: torch.device) -> int | None:
    """Memory of its own that a device can still give; None of a processor."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else None


def forget_peak(device: torch.device) -> None:
    """Let `peak_device_bytes` begin anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_device_bytes(device: torch.device) -> int | None:
    """Most memory of a device that tensors of this process have taken at once; None of a processor."""
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None
