"""Bytes that workers exchange in a training step: counted, and on the loopback.

    python benchmarks/exchange.py

Trains in 2 and 3 processes on this machine, on examples so small that the exchange is
most of it, and reads what has passed the loopback interface between two steps. A ring
of n workers sends 2(n-1)/n times the gradients from each.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import measure

import runner

LOOPBACK = "lo"
FIRST, LAST = 20, 120  # steps to read the interface at
CLIPS, SECONDS = 20, 2
HPARAMS = "mel_bands=16,example_window_seconds=0.1,example_hop_seconds=0.1,batch_size=6"
FLOAT32_BYTES = 4


def bytes_sent() -> int:
    """Bytes that the loopback interface has sent since the machine started."""
    for line in pathlib.Path("/proc/net/dev").read_text().splitlines():
        name, _, values = line.partition(":")
        if name.strip() == LOOPBACK:
            return int(values.split()[8])
    raise ValueError(f"there is no interface {LOOPBACK}")


def train_together(root: pathlib.Path, num_workers: int) -> tuple[float, float]:
    """Bytes on the loopback and seconds, both for a step of all workers."""
    addresses = [f"localhost:{measure.free_port()}" for _ in range(num_workers)]
    command = measure.train_command(root, LAST)
    command += [f"--hparams={HPARAMS}", "--checkpoint_steps=1000000"]
    command.append(f"--train_dir={root / f'train{num_workers}'}")
    processes = []
    for index in range(num_workers):
        task = {"type": "worker", "index": index}
        config = {"cluster": {"worker": addresses}, "task": task}
        processes.append(
            subprocess.Popen(
                [sys.executable, *map(str, command)],
                env=os.environ | {"TF_CONFIG": json.dumps(config)},
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        )
    before = after = started = ended = 0.0
    for line in processes[0].stdout:
        if line.startswith(f"step {FIRST}:"):
            before, started = bytes_sent(), time.perf_counter()
        if line.startswith(f"step {LAST - 1}:"):
            after, ended = bytes_sent(), time.perf_counter()
    for process in processes:
        process.communicate()
        if process.returncode:
            raise ValueError(f"exit status {process.returncode} of a worker")
    steps = LAST - 1 - FIRST
    return (after - before) / steps, (ended - started) / steps


def main() -> None:
    """Measures and prints the table."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    runner.set_environment()
    runner.start_tensorflow()
    import model
    from hparams import parse_hparams

    network = model.MobileNet(
        num_classes=measure.CLASSES, hparams=parse_hparams(HPARAMS), seed=0
    )
    values = sum(v.shape.num_elements() for v in network.trainable_variables.values())
    size = values * FLOAT32_BYTES
    print(measure.machine("tensorflow"))
    print(f"\nGradients: {values} values, {size / 1e6:.2f} MB\n")
    print("| workers | counted, MB a step of all | loopback, MB | s a step |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder) / "data"
        measure.make_data(root, CLIPS, SECONDS)
        for num_workers in (2, 3):
            counted = 2 * (num_workers - 1) * size
            sent, seconds = train_together(root, num_workers)
            print(
                f"| {num_workers} | {counted / 1e6:.1f} | {sent / 1e6:.1f} "
                f"| {seconds:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
