"""Clips, the tables that name them, and the WAV files that hold them."""
