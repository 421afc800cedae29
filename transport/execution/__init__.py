"""From the text of a request to its result, whichever way it came: bounds, documents, plans, execution, masking."""
