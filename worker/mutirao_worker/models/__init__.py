"""The repository of models, and the models that a worker has loaded from it."""
