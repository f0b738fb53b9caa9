"""What is published: tables and columns, and where in MongoDB their rows come from."""
