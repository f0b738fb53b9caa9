"""How changes come in: MongoDB's change streams, read into one total order."""
