"""zmsd demo: a MongoDB of its own, a small chat that writes into it, its changes on the terminal."""
