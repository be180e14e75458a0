"""Which requests a worker takes, how they are batched and how each ends; knows neither Celery nor models."""
