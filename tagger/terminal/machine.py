"""What the machine has: processor cores, GPUs, and their support of bfloat16."""

import os
import platform

import tensorflow as tf

BFLOAT16_CAPABILITY = (8, 0)  # of NVIDIA GPUs, from Ampere on
# As in /proc/cpuinfo: of x86, and (the last) of ARM.
BFLOAT16_INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}


def num_cpu_cores() -> int:
    """The number of CPU cores that this process may use; on macOS, of all cores."""
    if hasattr(os, "process_cpu_count"):  # since Python 3.13
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_platform(*, mixed_precision: bool) -> str:
    """The versions, the devices and, with mixed precision, a line about bfloat16."""
    gpus = tf.config.get_visible_devices("GPU")
    names = [
        tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
        for gpu in gpus
    ]
    cores = f"no GPU, {num_cpu_cores()} CPU cores"
    device = f"GPU: {', '.join(names)}" if names else cores
    line = f"TensorFlow {tf.__version__}, Python {platform.python_version()}, {device}"
    return f"{line}\n{describe_bfloat16()}" if mixed_precision else line


def describe_bfloat16() -> str:
    """A line about the support of bfloat16 by the GPUs or the processor.

    It starts with "warning: " if there is none.
    """
    if gpus := tf.config.get_visible_devices("GPU"):
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        # Only NVIDIA's GPUs have a compute capability.
        if not all("compute_capability" in detail for detail in details):
            return "mixed precision: bfloat16, if the GPU supports it"
        lowest = min(detail["compute_capability"] for detail in details)
        found = "{}.{}".format(*lowest)
        if lowest >= BFLOAT16_CAPABILITY:
            return f"mixed precision: bfloat16 on GPUs of compute capability {found}"
        least = "{}.{}".format(*BFLOAT16_CAPABILITY)
        return (
            f"warning: bfloat16 needs compute capability {least}, but a GPU has "
            f"{found}; --mixed_precision may be slower"
        )
    try:
        with open("/proc/cpuinfo") as file:
            words = set(file.read().split())
    except OSError:  # not Linux
        return "mixed precision: bfloat16, if the processor supports it"
    if found := sorted(BFLOAT16_INSTRUCTIONS & words):
        return f"mixed precision: bfloat16 on the CPU, with {', '.join(found)}"
    return (
        "warning: the processor has no instructions for bfloat16, so --mixed_precision "
        "is slower than float32"
    )
