"""Recordings of any format and length, with times."""
