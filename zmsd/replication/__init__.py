"""Turn change events into encoded Zero transactions, kept in a bounded log and read by many sessions."""
