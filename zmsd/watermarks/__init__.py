"""Where positions are kept: what cannot be derived from MongoDB."""
