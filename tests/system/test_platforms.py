"""Systems that lack functions of Linux."""

import json
import os
import subprocess

from helpers import ROOT, SMALL_HPARAMS
from processes import forking_python

# All in one process, because starting TensorFlow takes seconds. Modules count the cores
# when they are imported, so the functions are removed before that.
PROGRAM = """
import json, os, sys

vars(os).pop("sched_getaffinity", None)
vars(os).pop("process_cpu_count", None)
from helpers import run_main
from tools import export_model
import model

model.MOBILENET_V1 = model.MOBILENET_V1[:2]
*modes, export = json.load(sys.stdin)
for flags in modes:
    assert run_main(flags) == 0
export_model.export(**export)
"""


def test_all_modes_run_without_the_number_of_usable_cores(dataset, tmp_path):
    """As on macOS."""
    run = tmp_path / "run"
    options = {"hparams": SMALL_HPARAMS, "max_steps": 2}
    arguments = [
        dataset.train_flags(run, **options),
        dataset.eval_flags(run, run / "eval"),
        dataset.inference_flags(run, tmp_path / "submission.csv"),
        {
            "checkpoint": str(run),
            "class_map_path": str(dataset.class_map_path),
            "export_dir": str(tmp_path / "export"),
            "hparam_overrides": {},
        },
    ]
    done = subprocess.run(
        [forking_python(), "-c", PROGRAM],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"{os.cpu_count()} CPU cores" in done.stderr
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {"run", "submission.csv", "export"}
