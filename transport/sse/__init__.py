"""GraphQL over server-sent events: both modes of the graphql-sse protocol."""
