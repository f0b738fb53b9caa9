"""Tables, their columns, and the mappings that say where in MongoDB their rows come from."""
