"""Exports a trained tagger, to share it with people who have TensorFlow or LiteRT but
not this program.

    python -m tools.export_model --checkpoint runs/first --class_map_path class_map.csv
    --export_dir shared/first

writes the folder shared/first with a SavedModel, a LiteRT model (.tflite) and the class
map. An error is one line on stderr and exit status 1.
"""

import sys
from collections.abc import Sequence

from absl import flags

import runner
from runner import Flag
from tagger import hparams

SHARED = {flag.name: flag for flag in runner.FLAGS[runner.ALL_MODES]}
FLAGS = {
    "Flags": (
        Flag("checkpoint", "", "model.ckpt-N, or a train_dir (its newest)."),
        SHARED["class_map_path"],
        Flag("export_dir", "", "Folder to write, empty or not there yet."),
        SHARED["model"],
        Flag(
            "hparams",
            "",
            "Hyperparameters as name=value,name=value, where there is no hparams.json "
            "beside the checkpoint.",
        ),
    )
}
REQUIRED = ("checkpoint", "class_map_path", "export_dir")


def run(values: flags.FlagValues) -> int:
    """Calls export.export with the flags; returns the exit status.

    Raises:
      ValueError: a flag is missing or has a wrong value.
    """
    for name in REQUIRED:
        if not values[name].value:
            raise ValueError(f"--{name} is missing; --help lists all flags")
    runner.check_model(values)
    overrides = hparams.parse_overrides(values.hparams)
    runner.set_environment()
    runner.start_tensorflow()
    from tools import export

    export.export(
        model_name=values.model,
        hparam_overrides=overrides,
        class_map_path=values.class_map_path,
        checkpoint=values.checkpoint,
        export_dir=values.export_dir,
    )
    return 0


def main(arguments: Sequence[str]) -> int:
    """Runs the program with its command-line arguments; returns the exit status."""
    return runner.run_command(
        arguments, introduction=__doc__, flag_groups=FLAGS, run=run
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
