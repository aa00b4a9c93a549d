"""What the machine has: processor cores and GPUs."""

import os
import platform

import tensorflow as tf


def num_cpu_cores() -> int:
    """The number of CPU cores that this process may use; on macOS, of all cores."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_platform(*, mixed_precision: bool) -> str:
    """The versions and the devices; with mixed precision, a line about it."""
    gpus = tf.config.get_visible_devices("GPU")
    names = [
        tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
        for gpu in gpus
    ]
    cores = f"no GPU, {num_cpu_cores()} CPU cores"
    device = f"GPU: {', '.join(names)}" if names else cores
    line = f"TensorFlow {tf.__version__}, Python {platform.python_version()}, {device}"
    precision = "\nmixed precision: bfloat16, slow on hardware that does not support it"
    return line + precision if mixed_precision else line
