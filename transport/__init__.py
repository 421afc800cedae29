"""How a client reaches a GraphQL schema: HTTP, WebSocket, server-sent events, and the limits on all three.

Nothing here knows the product. What it serves is handed to it as an `Application` (`transport/application.py`).
"""
