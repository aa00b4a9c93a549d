"""Waveforms of WAV files whose headers are known, read with TensorFlow.

Letter for shapes: S samples.
"""

import numpy as np
import tensorflow as tf

from tagger.data.wav import BYTES_PER_SAMPLE

INT16_SCALE = 1 / 32768  # int16 samples to [-1, 1), as tf.audio.decode_wav does.
CUT_OFF = "clip was cut off after its header was read:"
# What TensorFlow raises if a clip was deleted, replaced by a folder, or cut off.
CLIP_ERRORS = (
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
    tf.errors.FailedPreconditionError,
    tf.errors.InvalidArgumentError,
)


def clip_to_waveform(
    path: tf.Tensor, data_offset: tf.Tensor, num_samples: tf.Tensor
) -> tf.Tensor:
    """Reads the samples of a WAV file whose header is known.

    Args:
      path: string, the WAV file.
      data_offset: int64, the offset of its 16-bit samples, in bytes.
      num_samples: int64, S, their number.

    Returns:
      float32 [S], from -1.0 to 32767/32768.

    Raises:
      tf.errors.OpError: the file is missing or too short; the message names it.
    """
    return samples_to_waveform(read_samples(path, data_offset, num_samples))


def samples_to_waveform(samples: tf.Tensor) -> tf.Tensor:
    """Converts the bytes of S 16-bit samples, a string, to float32 [S]."""
    return tf.cast(tf.io.decode_raw(samples, tf.int16), tf.float32) * INT16_SCALE


def read_samples(
    path: tf.Tensor, data_offset: tf.Tensor, num_samples: tf.Tensor
) -> tf.Tensor:
    """Reads the bytes of the samples of a file, a string; see `clip_to_waveform`."""
    return _part_of(tf.io.read_file(path), path, data_offset, num_samples)


def read_part(
    path: tf.Tensor, data_offset: tf.Tensor, num_samples: tf.Tensor
) -> tf.Tensor:
    """Like `read_samples`, for a small part of a large file.

    TensorFlow only reads whole files, so this runs in Python.
    """

    def read(path: bytes, offset: int, num_bytes: int) -> bytes:
        """The bytes from an offset on; fewer, if the file ends before."""
        try:
            with open(path, "rb") as file:
                file.seek(offset)
                return file.read(num_bytes)
        except OSError:
            return b""  # like a file that is too short

    part = [path, data_offset, BYTES_PER_SAMPLE * num_samples]
    contents = tf.numpy_function(read, part, tf.string)
    return _part_of(contents, path, np.int64(0), num_samples)


def _part_of(
    contents: tf.Tensor, path: tf.Tensor, offset: tf.Tensor, num_samples: tf.Tensor
) -> tf.Tensor:
    """The bytes of samples in the contents of a file; errors name the path."""
    num_bytes = BYTES_PER_SAMPLE * num_samples
    is_complete = tf.debugging.Assert(
        tf.cast(tf.strings.length(contents), tf.int64) >= offset + num_bytes,
        [CUT_OFF, path],
    )
    with tf.control_dependencies([is_complete]):
        return tf.strings.substr(contents, offset, num_bytes)
