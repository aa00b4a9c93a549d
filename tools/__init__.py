"""Programs beside the main one, run as `python -m tools.NAME`."""
