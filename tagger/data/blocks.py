"""Blocks of long clips and recordings, so that their length needs no memory.

A block has BLOCK_EXAMPLES examples, and the last one of a clip fewer. Its frames are
also those of the whole clip. Blocks overlap, because examples do.

Letters for shapes: N clips, B blocks.
"""

import dataclasses

import numpy as np

from tagger.data.clips import Clips
from tagger.data.wav import BYTES_PER_SAMPLE
from tagger.hparams import Hparams

BLOCK_EXAMPLES = 64  # as many as the network scores at once


def block_samples(hparams: Hparams) -> tuple[int, int]:
    """The samples of a block, and those from its start to the start of the next."""
    hop = hparams.example_hop_frames
    step_frames = BLOCK_EXAMPLES * hop
    # One frame more than the step shows that there is a next block.
    num_frames = max(step_frames - hop + hparams.example_window_frames, step_frames + 1)
    num_samples = (num_frames - 1) * hparams.stft_hop_samples
    return (
        num_samples + hparams.stft_window_samples,
        step_frames * hparams.stft_hop_samples,
    )


def split_clips(clips: Clips, hparams: Hparams) -> tuple[np.ndarray, Clips]:
    """Splits N clips into B blocks.

    Returns:
      int64 [B], the positions of the clips that the blocks are of, in order; and the
      blocks, as clips with a part of the samples of their files.
    """
    size, step = block_samples(hparams)
    counts = -(-hparams.num_examples(clips.num_samples) // BLOCK_EXAMPLES)
    positions = np.repeat(np.arange(len(clips)), counts)
    first_blocks = np.cumsum(counts) - counts
    starts = step * (np.arange(len(positions)) - first_blocks[positions])
    blocks = clips.take(positions)
    return positions, dataclasses.replace(
        blocks,
        data_offsets=blocks.data_offsets + BYTES_PER_SAMPLE * starts,
        num_samples=np.minimum(blocks.num_samples - starts, size),
    )
