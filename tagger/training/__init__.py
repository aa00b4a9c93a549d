"""The training step, and the devices and processes that share it."""
