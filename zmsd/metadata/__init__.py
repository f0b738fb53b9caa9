"""Metadata about the daemon: health, metrics and the status page."""
