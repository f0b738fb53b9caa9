"""Serve zero-cache: HTTP, WebSocket, one session per client."""
