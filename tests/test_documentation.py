"""The Python code in the README runs as it stands."""

import re

import numpy as np
from conftest import section_of

import model
from tagger import checkpoints
from tagger.hparams import Hparams


def test_the_example_of_the_readme(dataset, tmp_path, monkeypatch, capsys):
    network = model.define_model("mobilenet-v1", num_classes=2, hparams=Hparams())
    (tmp_path / "runs" / "first").mkdir(parents=True)
    checkpoints.save(
        tmp_path / "runs" / "first", checkpoints.network_variables(network), 700
    )
    (tmp_path / "class_map.csv").symlink_to(dataset.class_map_path)
    (tmp_path / "clip.wav").symlink_to(dataset.clip_dir / "00.wav")
    monkeypatch.chdir(tmp_path)
    section = section_of("README.md", "Use it from Python")
    names = {}
    exec(re.search("```python\n(.*?)```", section, re.DOTALL)[1], names)
    assert "SeparableConv2d_12" in capsys.readouterr().out
    assert names["embeddings"].shape[1] == 1024
    np.testing.assert_array_equal(
        names["network"].get_weights()[0], network.get_weights()[0]
    )
