"""runner.py with the first two rows of the network, which are traced in less time."""

from tagger import program

program.start_tensorflow()  # This must precede importing model.

import model  # noqa: E402
import runner  # noqa: E402

model.MOBILENET_V1 = model.MOBILENET_V1[:2]

if __name__ == "__main__":
    program.run(runner.main)
