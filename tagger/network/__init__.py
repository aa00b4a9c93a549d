"""Layers, spectrograms and augmentation."""
