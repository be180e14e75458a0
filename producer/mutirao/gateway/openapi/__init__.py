"""The OpenAPI document, and what each route says for it."""
