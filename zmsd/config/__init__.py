"""Settings: read from YAML or JSON and the environment, and checked."""
