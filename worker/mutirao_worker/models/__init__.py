"""The repository of models and what serves them."""
