"""A document becomes rows, and two versions of it become row changes."""
