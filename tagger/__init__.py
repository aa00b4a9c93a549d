"""Shared modules."""
