"""All that knows Celery, kombu and billiard."""
