"""zmsd: a custom change source for Rocicorp Zero on MongoDB."""

__version__ = "1.0.0"
