"""The progress bar: it appears only on a terminal, and does not mix with results."""

import io
import re

import pytest
from helpers import SMALL_HPARAMS, run_main

from tagger.terminal import progress


class Terminal(io.StringIO):
    """A terminal of unknown size."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def attach(monkeypatch):
    """A function that replaces streams by a terminal; bars appear at once."""

    def attach_terminal(*streams: str) -> Terminal:
        terminal = Terminal()
        for stream in streams:
            monkeypatch.setattr(f"sys.{stream}", terminal)
        return terminal

    monkeypatch.setattr(progress, "DELAY_SECONDS", 0)
    return attach_terminal


def test_a_pipe_has_no_bar(capsys):
    with progress.progress_bar(3, what="scoring", unit="clip", keep=True) as bar:
        bar.update()
        progress.print_result("a line")
    output = capsys.readouterr()
    assert (output.out, output.err) == ("a line\n", "")


def test_a_bar_shows_title_and_progress(attach):
    terminal = attach("stderr")
    with progress.progress_bar(
        8, what="training", unit="step", done=2, keep=True
    ) as bar:
        for _ in range(3):
            bar.update()
        bar.refresh()
    assert "training:  25%" in terminal.getvalue()
    assert "| 5/8 [" in terminal.getvalue()
    assert terminal.getvalue().endswith("\n")


def test_a_printed_line_replaces_the_bar(attach):
    terminal = attach("stdout", "stderr")
    with progress.progress_bar(2, what="step 0", unit="clip"):
        progress.print_result("a line")
    assert re.search(r"\r +\ra line\n", terminal.getvalue())
    assert terminal.getvalue().endswith("\r")  # A bar that is not kept is erased.


def test_training_to_a_terminal(dataset, tmp_path, attach):
    flags = dataset.train_flags(tmp_path / "run", hparams=SMALL_HPARAMS, max_steps=11)
    terminal = attach("stdout", "stderr")
    assert run_main(flags) == 0
    screen = terminal.getvalue()
    assert "11/11" in screen
    assert re.search(r"loss=\d\.\d{4}\]", screen)
    # The bar shows each step. A line is printed for every tenth step.
    assert re.findall(r"(?:^|\r)step (\d+): loss", screen, re.MULTILINE) == ["10"]
    assert "checking WAV headers" in screen
    assert "done at step 11; checkpoint model.ckpt-11" in screen.splitlines()[-1]


def test_results_to_a_file_have_every_step(dataset, tmp_path, attach, capsys):
    terminal = attach("stderr")
    flags = dict(hparams=SMALL_HPARAMS, max_steps=5, summary_steps=2)
    assert run_main(dataset.train_flags(tmp_path / "run", **flags)) == 0
    assert capsys.readouterr().out.count("step ") == 5
    assert "5/5" in terminal.getvalue()
    remaining = r"the remaining 1 step will take about [\d.e-]+ hours"
    assert len(re.findall(remaining, terminal.getvalue())) == 1


def test_scoring_to_a_terminal(dataset, trained, tmp_path, attach):
    terminal = attach("stdout", "stderr")
    out, eval_dir = tmp_path / "out.csv", tmp_path / "eval"
    assert run_main(dataset.inference_flags(trained, out)) == 0
    assert run_main(dataset.eval_flags(trained, eval_dir, eval_every_k=9)) == 0
    assert re.search(r"\rscoring: +8%.* 1/12 ", terminal.getvalue())
    assert re.search(r"\rstep 0: +\d+%.*/12 ", terminal.getvalue())
    assert re.search(r"\r +\r(note: .*\n)?step 0, all 12 clips", terminal.getvalue())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0.0 s"), (12.5, "12.5 s"), (90, "1.5 minutes"), (3600, "1.00 hours")),
        (7.2e6, "2,000.00 hours"),
    ],
)
def test_durations(seconds, text):
    assert progress.duration(seconds) == text
