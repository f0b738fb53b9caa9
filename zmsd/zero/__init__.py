"""Zero's custom change source protocol, and the tables that zero-cache itself requires."""
