"""``zmsd verify``: compare the rows of a replica with MongoDB, exactly, at one position."""
