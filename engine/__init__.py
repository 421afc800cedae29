"""What the product does. No GraphQL, no HTTP server, no SQL text."""
