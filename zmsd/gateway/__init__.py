"""Who is served: HTTP pages and WebSocket sessions."""
