"""Which cores and devices are used and reported."""

import types

import pytest
import tensorflow as tf

from tagger.network import layers
from tagger.terminal import machine


def test_the_number_of_cores_of_this_process(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: None)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {3, 5}, raising=False)
    assert machine.num_cpu_cores() == 2
    monkeypatch.delattr("os.sched_getaffinity")
    assert machine.num_cpu_cores() == 1


@pytest.fixture
def fake_gpus(monkeypatch):
    """A function that sets the details of the visible GPUs. Others are hidden."""

    def set_visible(*details: dict):
        monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: details)

    experimental = tf.config.experimental
    monkeypatch.setattr(experimental, "get_device_details", lambda details: details)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [{}])
    set_visible()
    return set_visible


def test_the_devices_are_reported(fake_gpus):
    line, precision = machine.describe_platform(mixed_precision=True).splitlines()
    assert "no GPU" in line and "bfloat16" in precision
    assert machine.describe_platform(mixed_precision=False) == line


@pytest.mark.parametrize("visible", [False, True])
def test_a_hidden_gpu_does_not_change_the_gradient(monkeypatch, fake_gpus, visible):
    if visible:
        fake_gpus({})
    calls = []

    def spy(net, kernel, *, stride):
        calls.append(stride)
        return net

    monkeypatch.setattr(layers, "_depthwise_bfloat16", spy)
    layer = types.SimpleNamespace(depthwise=True, stride=1)
    net, kernel = tf.zeros([1, 4, 4, 2], tf.bfloat16), tf.zeros([3, 3, 2, 1])
    layers.Convolution._convolve(layer, net, kernel)
    assert calls == ([] if visible else [1])
