"""The parts of the network and of its input."""
