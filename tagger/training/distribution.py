"""The devices and processes that train together, and the values that they exchange.

This uses TensorFlow's MirroredStrategy for several devices of one process, and its
MultiWorkerMirroredStrategy for the processes that TF_CONFIG lists. A replica is a
device with its own copy of all variables. A worker is a process. Worker 0 is the chief.
Only the chief writes files.
"""

import dataclasses
import functools
import os
import random
import re
import socket
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tagger.data.clips import Clips
from tagger.errors import UserError
from tagger.hparams import MAX_SEED, Hparams
from tagger.terminal import signals

CLUSTER_VARIABLE = "TF_CONFIG"
CLUSTER_EXAMPLE = (
    '{"cluster": {"worker": ["host:port", "host:port"]}, '
    '"task": {"type": "worker", "index": 0}}'
)
CLUSTER_JOBS = ("chief", "worker")
CONNECT_SECONDS = 10  # to wait for a connection
MAX_PORT = 65535  # of TCP


def read_cluster() -> tuple[int, int]:
    """Reads TF_CONFIG.

    Returns:
      The index of this worker, and the number of workers; without TF_CONFIG, 0 and 1.
      The chief has index 0.

    Raises:
      UserError: TF_CONFIG is invalid, or the task is neither chief nor worker.
    """
    if not (text := os.environ.get(CLUSTER_VARIABLE)):
        return 0, 1
    invalid = UserError(
        f"{CLUSTER_VARIABLE} must be like {CLUSTER_EXAMPLE}, with the jobs "
        f"{' and '.join(CLUSTER_JOBS)}, different addresses, and ports up to "
        f"{MAX_PORT}, but got {text}"
    )
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    try:
        if not (cluster := resolver.cluster_spec().as_dict()):
            return 0, 1
        own_address = cluster[resolver.task_type][resolver.task_id]
    except (ValueError, TypeError, AttributeError, LookupError):
        raise invalid from None
    addresses = [a for job in CLUSTER_JOBS for a in cluster.get(job, [])]
    ports = [re.fullmatch(r".+:(\d{1,5})", address) for address in addresses]
    if (
        own_address not in addresses
        or len(set(addresses)) < len(addresses)
        or not all(port and 0 < int(port[1]) <= MAX_PORT for port in ports)
    ):
        raise invalid
    return addresses.index(own_address), len(addresses)


def check_reachable(address: str) -> None:
    """Checks that a data service answers. TensorFlow would wait for it without limit.

    Args:
      address: grpc://host:port of its dispatcher.

    Raises:
      UserError: the data service does not answer.
    """
    address = address.removeprefix("grpc://")
    host, _, port = address.rpartition(":")
    try:
        # An IPv6 address is in brackets. A host that is no name is a ValueError.
        place = host.strip("[]"), int(port)
        socket.create_connection(place, CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(
            f"--data_service: cannot reach {address} ({error}); is its dispatcher "
            f"running?"
        ) from None


class Distribution:
    """The devices of all workers, which train together.

    Args:
      devices: names such as GPU:0; empty: all GPUs, or the CPU if there is no GPU.

    Attributes:
      strategy: a strategy of TensorFlow; its default one if there is one replica.
      worker: the index of this worker.
      num_workers: the number of workers.
      seed: what `set_seed` has set, on all workers.

    Raises:
      UserError: a device does not exist, or TF_CONFIG cannot be used.
    """

    def __init__(self, devices: Sequence[str] = ()):
        self.worker, self.num_workers = read_cluster()
        _set_visible(devices)
        if self.num_workers > 1:
            print(
                f"worker {self.worker} of {self.num_workers}: waiting for the others",
                file=sys.stderr,
                flush=True,
            )
            with signals.end_at_once():
                self.strategy = tf.distribute.MultiWorkerMirroredStrategy()
        elif len(names := _gpu_names() or devices) > 1:
            self.strategy = _mirrored(tuple(names))
        else:
            self.strategy = tf.distribute.get_strategy()
        if self.num_replicas > 1:
            print(f"{self.num_replicas} devices train together", file=sys.stderr)
        self._mean = tf.function(self._mean_of_replicas, autograph=False)

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes checkpoints, events and hparams.json."""
        return self.worker == 0

    @property
    def num_replicas(self) -> int:
        """The number of devices of all workers."""
        return self.strategy.num_replicas_in_sync

    def check_inputs(
        self, options: Any, hparams: Hparams, class_names: Sequence[str], clips: Clips
    ) -> None:
        """Checks that the work can be shared, and that all workers have equal inputs.

        Raises:
          UserError: the work cannot be shared, or options, classes or clips differ.
        """
        if hparams.batch_size % self.num_replicas:
            raise UserError(
                f"batch_size must be a multiple of the {self.num_replicas} devices "
                f"that train together, but got {hparams.batch_size}"
            )
        if len(clips) < self.num_workers:
            raise UserError(
                f"there must be at least one clip for each of the {self.num_workers} "
                f"workers, but got {len(clips)}"
            )
        # Only the paths of input files may differ.
        paths = dict.fromkeys(
            ["class_map_path", "train_clip_dir", "train_csv_path"], ""
        )
        options = dataclasses.replace(options, hparams={}, **paths)
        values = [options, hparams, class_names]
        values += [clips.num_samples.tobytes(), clips.labels.tobytes()]
        self.check_equal(
            values,
            "the flags or clips of the workers differ; start all workers with the same "
            "flags and clips",
        )

    def check_start(self, checksums: Callable[[], Sequence[int]]) -> None:
        """Checks that all workers have the same variables, by their checksums.

        Raises:
          UserError: they differ.
        """
        if self.num_workers > 1:  # Checksums take time.
            self.check_equal(
                checksums(),
                "the workers start from different weights; --train_dir and "
                "--warmstart_checkpoint must be on a drive that all workers share",
            )

    def set_seed(self, seed: int | None) -> None:
        """Seeds all random numbers of all workers.

        If a seed is given, TensorFlow also uses deterministic operations.
        """
        if seed is None:
            seed = random.randrange(MAX_SEED)
        else:
            tf.config.experimental.enable_op_determinism()
        self.seed = self.chief_value(seed)
        keras.utils.set_random_seed(self.seed)

    def chief_value(self, value: int) -> int:
        """Returns the value of the chief, on every worker. It must be below 2**53."""
        if self.num_workers == 1:
            return value
        with self.strategy.scope():
            # A variable starts with the chief's value on every worker.
            return int(tf.Variable(value, dtype=tf.float64).numpy())

    def check_equal(self, values: Any, message: str) -> None:
        """Checks that the values are equal on all workers; every worker must call it.

        Raises:
          UserError: their text differs; every worker raises it, with the message.
        """
        if self.num_workers == 1:
            return
        checksum = zlib.crc32(repr(values).encode())
        if self._mean_float(checksum) != checksum:
            raise UserError(message)

    def wait_for_all(self) -> None:
        """Returns when every worker has called it."""
        if self.num_workers > 1:
            self._mean_float(0)

    def batches(self, stream: Iterator[Any]) -> Iterator[Any]:
        """Yields the input of each step: a batch of the stream for each local replica.

        Args:
          stream: batches for one replica, without end: features float32 [E, T, F] and
            labels float32 [E, C].
        """
        if self.num_replicas == 1:
            yield from stream
            return
        while True:
            yield self.strategy.experimental_distribute_values_from_function(
                lambda _: next(stream)
            )

    def _mean_float(self, value: float) -> float:
        # float64 is exact for checksums.
        return float(self._mean(tf.constant(value, tf.float64)))

    def _mean_of_replicas(self, value: tf.Tensor) -> tf.Tensor:
        def mean(value: tf.Tensor) -> tf.Tensor:
            replica = tf.distribute.get_replica_context()
            # The copy is on the replica's device.
            return replica.all_reduce(tf.distribute.ReduceOp.MEAN, tf.identity(value))

        results = self.strategy.run(mean, args=(value,))
        return self.strategy.experimental_local_results(results)[0]


@functools.cache
def _mirrored(names: tuple[str, ...]) -> tf.distribute.Strategy:
    """The strategy for these devices. The operations of two would interfere."""
    return tf.distribute.MirroredStrategy(names)


def _gpu_names() -> list[str]:
    """The names of the visible GPUs."""
    return [
        device.name.removeprefix("/device:")
        for device in tf.config.list_logical_devices("GPU")
    ]


def _set_visible(devices: Sequence[str]) -> None:
    """Hides the GPUs that are not among the devices, and splits the CPU for CPU:1.

    TensorFlow has one CPU device. Splitting it allows tests of several on any machine.
    """
    indices: dict[str, list[int]] = {"CPU": [], "GPU": []}
    for device in devices:
        kind, index = device.split(":")
        indices[kind].append(int(index))
    gpus = tf.config.list_physical_devices("GPU")
    missing = [index for index in indices["GPU"] if index >= len(gpus)]
    if missing:
        raise UserError(
            f"--devices: there is no GPU:{missing[0]}; TensorFlow finds {len(gpus)}"
        )
    if devices and gpus:
        tf.config.set_visible_devices([gpus[i] for i in indices["GPU"]], "GPU")
    (cpu,) = tf.config.list_physical_devices("CPU")
    num_cpus = 1 + max(indices["CPU"], default=0)
    if num_cpus > len(tf.config.get_logical_device_configuration(cpu) or [cpu]):
        parts = [tf.config.LogicalDeviceConfiguration()] * num_cpus
        tf.config.set_logical_device_configuration(cpu, parts)
