"""GraphQL over WebSocket: the graphql-transport-ws protocol, and a socket that can be written to at once."""
