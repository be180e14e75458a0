"""What a receiver is told of a job: what `GET /v1/jobs/{id}` says of it, without its result."""

from __future__ import annotations

from typing import Any

from mutirao.messages import JobRecord


def view(record: JobRecord) -> Any:
    """Make the document of a job that has ended."""
    job = record.job
    return {
        "id": record.task_id,
        "status": record.state,
        "model": job.model,
        "links": {"self": f"/v1/jobs/{record.task_id}", "result": f"/v1/jobs/{record.task_id}/result"},
    }
