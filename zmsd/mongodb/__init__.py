"""Read MongoDB: change streams in one total order, snapshot scans, lookups, the oplog."""
