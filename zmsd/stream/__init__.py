"""How changes are kept for the clients: encoded once, read by many."""
