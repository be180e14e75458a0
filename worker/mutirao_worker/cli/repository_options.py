"""The options of every `mutirao models` command: which repository, and JSON."""

from __future__ import annotations

import click

from mutirao import settings
from mutirao.cli.options import as_json, joined
from mutirao_worker.models.repository import Repository


def _repository(ctx: click.Context, param: click.Parameter, folder: str | None) -> Repository:  # noqa: ARG001 - click's
    loaded = settings.load(models=folder)
    return Repository(loaded.models, load_s=loaded.load_s, load_memory=loaded.load_memory)


repository_options = joined(
    (
        click.option(
            "--models",
            "--repository",
            "repository",
            metavar="DIR",
            callback=_repository,
            help="The model repository; MUTIRAO_MODELS, or ./models by default.",
        ),
        as_json,
    )
)
