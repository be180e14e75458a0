"""From an HTTP request to checked inputs and options."""
