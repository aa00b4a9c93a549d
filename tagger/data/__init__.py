"""Tables of clips, and WAV files."""
