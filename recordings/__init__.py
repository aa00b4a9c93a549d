"""Decoding, detections and pictures of recordings of any format and length."""
