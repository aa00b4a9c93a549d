"""What the files at the top of the repository share."""
