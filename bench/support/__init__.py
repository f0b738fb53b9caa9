"""What the benchmarks share: a MongoDB and a zmsd, clients that only count, yardsticks, and how figures are shown."""
