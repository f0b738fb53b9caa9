"""The demo: a temporary MongoDB, a small chat that writes to it, and its changes on the terminal."""
