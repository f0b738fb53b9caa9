"""zmsd: a custom change source for Rocicorp Zero on MongoDB."""

__version__ = "0.1.0"
