"""Solves the last layer of a network for other classes."""
