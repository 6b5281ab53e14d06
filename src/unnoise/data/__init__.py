"""Data: from files to uint8 arrays (n, c, h, w), to pictures again. Pillow lives here and nowhere
else."""
