"""Inference and evaluation as whole processes: ours and the original's way.

    python benchmarks/whole_process.py [--clips 400] [--rounds 1]

Inference on 400 five-second clips, and evaluation of 8 checkpoints on 80 of them, each
process started anew. "The original's way" is a TensorFlow 1 graph in tf.compat.v1, run
once for each clip and, in evaluation, again for each checkpoint, with the original's
operations for the features and batch norm not folded.
"""

import argparse
import csv
import os
import pathlib
import subprocess
import sys
import tempfile

import measure

import runner

CLASSES = 10
CHECKPOINTS = 8
EVAL_CLIPS = 80
SECONDS = 5
PEER_FLAG = "--as_the_original"


def run_the_original(clip_dir: str, prefixes: list[str], names: list[str]) -> None:
    """Scores clips with checkpoints, one clip a run of the session."""
    import numpy as np
    import tensorflow as tf
    from features import original_examples

    import model
    from hparams import Hparams

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        path = v1.placeholder(tf.string, [])
        examples = original_examples(path, Hparams())
        net = examples[..., tf.newaxis]

        def variable(name: str, shape: list[int]) -> tf.Variable:
            return v1.get_variable(name, shape, use_resource=False)

        for convolution in model._convolutions(model.MOBILENET_V1):
            kernel = variable(convolution.weights, list(convolution.shape))
            net = model._apply_kernel(convolution, net, kernel)
            channels = [int(net.shape[-1])]
            gamma, beta, mean, variance = (
                variable(f"{convolution.scope}/BatchNorm/{part}", channels)
                for part in ("gamma", "beta", "moving_mean", "moving_variance")
            )
            net, _, _ = v1.nn.fused_batch_norm(
                net, gamma, beta, mean, variance, 1e-3, is_training=False
            )
            net = tf.nn.relu(net)
        net = tf.reduce_mean(net, [1, 2])
        weights = variable("fully_connected/weights", [1024, CLASSES])
        biases = variable("fully_connected/biases", [CLASSES])
        scores = tf.sigmoid(tf.matmul(net, weights) + biases)
        saver = v1.train.Saver()
        for prefix in prefixes:
            saver.restore(session, prefix)
            for name in names:
                clip = os.path.join(clip_dir, name)
                np.mean(session.run(scores, {path: clip}), axis=0)


def make_data(root: pathlib.Path, num_clips: int) -> None:
    """Writes clips, a class map, a CSV for evaluation, and checkpoints."""
    import numpy as np
    from features import make_clips

    import checkpoints
    import model
    from hparams import Hparams

    (root / "clips").mkdir()
    make_clips(root / "clips", num_clips)
    (root / "map.csv").write_text("".join(f"{i},C{i}\n" for i in range(CLASSES)))
    names = sorted(os.listdir(root / "clips"))[:EVAL_CLIPS]
    with (root / "eval.csv").open("w", newline="") as file:
        rows = [(name, f"C{index % CLASSES}") for index, name in enumerate(names)]
        csv.writer(file).writerows([("fname", "labels"), *rows])
    (root / "train").mkdir()
    for step in range(CHECKPOINTS):
        network = model.MobileNet(num_classes=CLASSES, hparams=Hparams(), seed=step)
        step_variable = np.int64(step)
        checkpoints.save(
            str(root / "train"),
            {**network.variables, "global_step": step_variable},
            step,
        )


def run_process(*command: object) -> None:
    subprocess.run(
        [sys.executable, *map(str, command)], check=True, stdout=subprocess.DEVNULL
    )


def main() -> None:
    """Times both ways of both modes and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(PEER_FLAG, nargs=3, metavar=("CLIPS", "CHECKPOINTS", "CSV"))
    arguments = parser.parse_args()
    runner.set_environment()
    runner.start_tensorflow()
    if arguments.as_the_original:
        clip_dir, prefixes, csv_path = arguments.as_the_original
        names = sorted(os.listdir(clip_dir))
        if csv_path:
            with open(csv_path, newline="") as file:
                names = [row["fname"] for row in csv.DictReader(file)]
        run_the_original(clip_dir, prefixes.split(","), names)
        return
    this = pathlib.Path(__file__).resolve()
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        make_data(root, arguments.clips)
        prefixes = [root / "train" / f"model.ckpt-{n}" for n in range(CHECKPOINTS)]
        round_number = iter(range(10**6))
        contenders = {
            "inference": {
                "ours": lambda: run_process(
                    measure.ROOT / "runner.py",
                    "--mode=inference",
                    f"--class_map_path={root / 'map.csv'}",
                    f"--inference_clip_dir={root / 'clips'}",
                    f"--inference_checkpoint={prefixes[0]}",
                    f"--predictions_csv_path={root / 'submission.csv'}",
                ),
                "the original's way": lambda: run_process(
                    this, PEER_FLAG, root / "clips", prefixes[0], ""
                ),
            },
            "eval": {
                "ours": lambda: run_process(
                    measure.ROOT / "runner.py",
                    "--mode=eval",
                    f"--class_map_path={root / 'map.csv'}",
                    f"--eval_clip_dir={root / 'clips'}",
                    f"--eval_csv_path={root / 'eval.csv'}",
                    f"--train_dir={root / 'train'}",
                    f"--eval_dir={root / f'eval{next(round_number)}'}",
                    "--eval_timeout_secs=0",
                ),
                "the original's way": lambda: run_process(
                    this,
                    PEER_FLAG,
                    root / "clips",
                    ",".join(map(str, prefixes)),
                    root / "eval.csv",
                ),
            },
        }
        print(measure.machine("tensorflow"))
        for mode, ways in contenders.items():
            seconds = measure.take_turns(ways, arguments.rounds, warm_ups=0)
            count = arguments.clips if mode == "inference" else EVAL_CLIPS
            what = f"{count} clips of {SECONDS} s"
            if mode == "eval":
                what += f", {CHECKPOINTS} checkpoints"
            measure.report(f"--mode {mode}, {what}", seconds, "ours")


if __name__ == "__main__":
    main()
