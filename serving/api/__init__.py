"""HTTP requests → pieces → HTTP responses, and the document that describes them."""
