"""The folders of training runs and of evaluations."""
