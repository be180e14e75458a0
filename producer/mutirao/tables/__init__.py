"""Tables of rows as text: CSV, read by a model's signature."""
