"""runner.py with the first two rows of the network, which are traced in less time."""

from collections.abc import Sequence

import runner
from tagger.terminal import program


def main(argv: Sequence[str]) -> int:
    """Like `runner.main`."""
    program.start_tensorflow()  # This must precede importing model.
    import model

    model.MOBILENET_V1 = model.MOBILENET_V1[:2]
    return runner.main(argv)


if __name__ == "__main__":
    program.run(main, lossy_stdout=True)
