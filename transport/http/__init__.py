"""GraphQL over HTTP: negotiation, status codes, and the connections beneath."""
