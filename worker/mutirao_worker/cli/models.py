"""`mutirao models`: what is in the model repository."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.markup import escape

from mutirao import errors, keyspace, settings
from mutirao.cli import console
from mutirao.cli.options import broker, joined
from mutirao.cli.redis_store import connected
from mutirao.client.redis_backend import RedisBackend
from mutirao.registry import ModelInfo
from mutirao.settings import Settings
from mutirao.wire.signature import InputSpec, OutputSpec, Signature, TensorSpec
from mutirao_worker.cli import model_code
from mutirao_worker.cli.model_env import env
from mutirao_worker.cli.repository_options import repository_options
from mutirao_worker.models.manifest import Manifest
from mutirao_worker.models.repository import Repository
from mutirao_worker.models.verification import Finding

_SHOWN = 4
# Workers of the same repository notice within this time that a model was removed.
NOTICED_S = 2.0
_LIMITS = (
    ("--max-rows", click.IntRange(1), "N", "The most rows that one request may hold; as before, or 10000."),
    ("--time-limit", click.FloatRange(0, min_open=True), "S", "Seconds after which a prediction is stopped; as before, or 60."),
    ("--max-batch-rows", click.IntRange(1), "N", "The most rows of several requests in one prediction; as before, or 512."),
    ("--max-batch-bytes", click.IntRange(1), "N", "The most bytes of their inputs; as before, or 8 MiB."),
    ("--max-wait", click.FloatRange(0), "MS", "Milliseconds that a request may wait for others while a process is idle; as before, or 0."),
    ("--latency-target", click.FloatRange(0), "MS", "Milliseconds within which a prediction should be done: its batches are kept that small; as before, or 0, any size."),
    ("--max-attempts", click.IntRange(1), "N", "How often a request may be running when its process dies or is stopped; as before, or 3."),
)  # fmt: skip


_limit_options = joined(click.option(name, type=kind, metavar=unit, help=text) for name, kind, unit, text in _LIMITS)


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog="Example: mutirao models list")
def models() -> None:
    """Add, list, check and remove the models that workers serve."""


models.add_command(env)


@models.command(
    short_help="Add a saved model as a new version.",
    epilog="Example: mutirao models add houses houses.joblib --example houses.csv",
)
@click.argument("name")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Names for the numbers that it predicts: a saved LabelEncoder, or a list or dict of names (pickle, .json, .txt).",
)
@click.option(
    "--steps",
    "picks",
    metavar="A,B",
    help="Where FILE holds a dict, a list or a tuple: the keys or places of the steps in it, the one that predicts last.",
)
@click.option(
    "--trust",
    multiple=True,
    metavar="TYPE",
    help="A type that a skops file may hold; repeatable. Look at what it does before you trust it.",
)
@click.option(
    "--runtime", metavar="R", help="The kind of model: sklearn, ...; by the file's content where it is not given."
)
@click.option(
    "--version", metavar="V", help="Its name; one more than the highest by default. It becomes the active one."
)
@click.option(
    "--example",
    type=click.Path(path_type=Path),
    help="A few rows as the model takes them: .csv (a header names the columns), .json or .npy.",
)
@_limit_options
@click.option(
    "--strict-version/--no-strict-version",
    default=None,
    help="Refuse to load with another version of scikit-learn than the one that saved it.",
)
@repository_options
def add(
    name: str,
    files: tuple[Path, ...],
    repository: Repository,
    *,
    as_json: bool,
    picks: str | None,
    time_limit: float | None,
    max_wait: float | None,
    latency_target: float | None,
    **options: Any,
) -> None:
    """Add a saved model as a new version of model NAME.

    Several FILEs are the steps of one model: each transforms, the last predicts. They are loaded and tried for that, in a process
    of their own, which runs the code in them: add only files that you trust.
    """
    options |= {"time_limit_s": time_limit, "max_wait_ms": max_wait, "latency_target_ms": latency_target}
    options["picks"] = [pick.strip() for pick in picks.split(",")] if picks else ()
    info = repository.add(name, *files, **options)
    if as_json:
        console.emit_json(_document(info))
        return
    others = f" of {len(info.versions)}" if len(info.versions) > 1 else ""
    console.console.print(f"added [bold]{info.name}[/] version {escape(info.version)}, now the active one{others}")
    _print_signature(info.signature)
    if info.reason:
        console.note(f"note: {info.reason}")
    console.console.print("Running workers load it at their next start.", style="dim")


models.add_command(model_code.init)
models.add_command(model_code.try_)


@models.command("list", short_help="List the models and their states.", epilog="Example: mutirao models list --json")
@repository_options
def list_(repository: Repository, *, as_json: bool) -> None:
    """List the models: active version, what they take, and whether they can be served."""
    infos = [repository.info(name) for name in repository.names()]
    if as_json:
        console.emit_json([_document(info) for info in infos])
    elif not infos:
        console.note(f"no models in {repository.root}: add one with mutirao models add NAME FILE")
    else:
        console.table(("model", "version", "takes", "gives", "state"), [_row(info) for info in infos])
        for info in infos:
            if info.reason:
                console.console.print(f"{info.name}: {info.reason}", markup=False)


@models.command(epilog="Example: mutirao models show iris")
@click.argument("name")
@repository_options
def show(name: str, repository: Repository, *, as_json: bool) -> None:
    """Show one model: its versions, limits, inputs and outputs."""
    info = repository.info(name)
    if as_json:
        console.emit_json(_document(info))
        return
    console.console.print(f"[bold]{info.name}[/]  {escape(_state(info))}")
    if info.version:
        _print_settings(repository, info)
        _print_signature(info.signature)
        if guessed := [spec for spec in info.signature.inputs if spec.guessed]:
            example = f"mutirao models set {info.name} inputs.{guessed[0].name}.datatype=INT64"
            console.note(f"note: datatypes marked as guessed may be corrected: {example}")


@models.command(
    short_help="Check files against their digests, and load each model.",
    epilog="Example: mutirao models verify && mutirao worker",
)
@click.argument("name", required=False)
@repository_options
@click.pass_context
def verify(ctx: click.Context, name: str | None, repository: Repository, *, as_json: bool) -> int:
    """Check the files of all models (or of NAME) against their digests, load each and run its example.

    Exits with 1 where a model cannot be served; notes do not count.
    """
    models = {model: repository.verify(model) for model in ([name] if name else repository.names())}
    if as_json:
        console.emit_json({model: list(map(msgspec.structs.asdict, findings)) for model, findings in models.items()})
    else:
        _print_findings(models, repository)
    failed = any(not finding.note for findings in models.values() for finding in findings)
    ctx.exit(console.Exit.FAILED if failed else console.Exit.OK)


@models.command(short_help="Choose the version that is served.", epilog="Example: mutirao models activate iris 1")
@click.argument("name")
@click.argument("version")
@repository_options
def activate(name: str, version: str, repository: Repository, *, as_json: bool) -> None:
    """Make VERSION the one that is served, for example to go back to an earlier one."""
    info = repository.activate(name, version)
    if as_json:
        console.emit_json(_document(info))
        return
    console.console.print(f"version {info.version} of [bold]{info.name}[/] is now the active one")
    console.console.print("Running workers load it at their next start.", style="dim")


@models.command(
    "set",
    short_help="Change settings, or what is known of an input.",
    epilog="Example: mutirao models set houses max_rows=100 inputs.rooms.datatype=FP64",
)
@click.argument("name")
@click.argument("changes", nargs=-1, required=True, metavar="KEY=VALUE...")
@repository_options
def set_(name: str, changes: tuple[str, ...], repository: Repository, *, as_json: bool) -> None:
    """Change settings of model NAME, or what is known of an input of its active version.

    KEY is a setting as in model.toml (max_rows, time_limit_s, max_batch_rows, ...), or inputs.INPUT.datatype or
    inputs.INPUT.nullable. The model must still predict its example.
    """
    info = repository.change(name, dict(map(_key_and_value, changes)))
    if as_json:
        console.emit_json(_document(info))
        return
    console.console.print(f"changed [bold]{info.name}[/]: {escape(', '.join(changes))}")
    console.console.print("Running workers load it at their next start.", style="dim")


def _key_and_value(change: str) -> tuple[str, str]:
    key, equals, value = change.partition("=")
    if not equals:
        raise click.BadParameter(f"{change!r}: it must be KEY=VALUE, such as max_rows=100", param_hint="KEY=VALUE")
    return key.strip(), value.strip()


@models.command(epilog="Example: mutirao models remove iris --version 1 --yes")
@click.argument("name")
@click.option("--version", metavar="V", help="Only this version; the whole model by default.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@repository_options
def remove(name: str, version: str | None, repository: Repository, *, yes: bool, as_json: bool) -> None:
    """Remove a model, or one version of it, with its files."""
    what = f"version {version} of model {name}" if version else f"model {name} with all its versions"
    if not yes:
        _check_exists(repository, name, version)
        console.confirm(f"Remove {what} from {repository.root}?")
    repository.remove(name, version)
    remedy = "" if name in repository.names() else _withdraw_removed(name)
    if as_json:
        console.emit_json({"removed": name, "version": version})
    else:
        console.console.print(f"removed {what}", markup=False)
    if remedy:
        console.note(f"note: {remedy}")


def _check_exists(repository: Repository, name: str, version: str | None) -> None:
    """Refuse a model or a version that does not exist, before the confirmation."""
    versions = repository.info(name).versions
    if version is not None and versions and version not in versions:
        text = f"model {name!r} has no version {version!r}: it has {', '.join(versions)}"
        raise errors.ModelNotFound(text, model=name, known=versions)


@models.command(
    short_help="Take a model off the catalogue of running systems.", epilog="Example: mutirao models forget iris"
)
@click.argument("name")
@broker
def forget(name: str, broker_url: str | None) -> None:
    """Take model NAME off the catalogue of running systems, where no live worker has it in its repository.

    `remove` does it by itself where it reaches Redis. Workers forget a model that no worker has announced for a day.
    """
    keyspace.model_name(name)
    status, *workers = _withdraw(settings.load(broker_url=broker_url), name)
    if status == "unknown":
        raise errors.ModelNotFound(f"model {name!r} is not in the catalogue: mutirao doctor names those that are")
    if status == "kept":
        raise errors.ModelExists(f"model {name!r} is still in the repository of {', '.join(workers)}: remove it there")
    console.console.print(f"{name} is no longer in the catalogue", markup=False)


def _withdraw_removed(name: str) -> str:
    """Withdraw a removed model from the catalogue; return what is left to do, "" for nothing."""
    configured, deadline = settings.load(), time.monotonic() + NOTICED_S
    configured = msgspec.structs.replace(configured, timeout_s=min(configured.timeout_s, NOTICED_S))
    try:
        while True:
            status, *workers = _withdraw(configured, name)
            if status != "kept":
                return ""
            if time.monotonic() > deadline:
                return f"{', '.join(workers)} still has it in its repository, so it is served: remove it there, too"
            time.sleep(0.1)
    except errors.MutiraoError as exc:
        return f"a running system may still list it ({exc}); where there is one: mutirao models forget {name}"


def _withdraw(configured: Settings, name: str) -> tuple[str, ...]:
    if configured.uses_gateway:
        text = f"{settings.without_password(configured.broker_url)} is a gateway: set MUTIRAO_BROKER_URL to its Redis"
        raise errors.InvalidRequest(text, reason="a gateway's URL")
    with connected(configured, lambda settings: RedisBackend(settings, check=False)) as (redis, backend):
        return redis.run(backend.withdraw([name]))[0]


def _row(info: ModelInfo) -> tuple[str, ...]:
    others = f" (of {len(info.versions)})" if len(info.versions) > 1 else ""
    gives = ", ".join(spec.name for spec in info.signature.outputs if spec.default)
    return info.name, info.version + others, _takes(info.signature), gives, info.state


def _takes(signature: Signature) -> str:
    specs = signature.inputs
    if len(specs) <= _SHOWN:
        return ", ".join(str(spec) for spec in specs)
    return ", ".join(spec.name for spec in specs[:_SHOWN]) + f" and {len(specs) - _SHOWN} more columns"


def _state(info: ModelInfo) -> str:
    return f"{info.state}: {info.reason}" if info.reason else info.state


def _print_settings(repository: Repository, info: ModelInfo) -> None:
    manifest = repository.manifest(info.name)
    soft = f", interrupted after {manifest.soft_time_limit_s:g} s" if manifest.soft_time_limit_s else ""
    others = [version for version in info.versions if version != info.version]
    lines = {
        "version": info.version + (f" (also here: {', '.join(others)})" if others else ""),
        "runtime": f"{info.runtime}, saved with {manifest.version.saved_with}"
        + (", no other accepted" if manifest.strict_version else ""),
        "accuracy": _accuracy(manifest),
        "limits": f"{manifest.max_rows} rows in a request, stopped after {manifest.time_limit_s:g} s{soft}",
        "batches": _batches(manifest),
        "attempts": f"{manifest.max_attempts}, where the process dies or is stopped",
        "folder": str(repository.root / info.name),
    }
    for label, text in lines.items():
        if text:
            console.console.print(f"{label:<8} {text}", markup=False)


def _accuracy(manifest: Manifest) -> str:
    """Say how far the answer to a row may depend on the batch that it is in; "" where it was not found to."""
    worst = max(step.tolerance for step in manifest.version.steps)
    return f"in a batch a row's answer may differ from the one that it gets alone by {worst:.1g} of it" if worst else ""


def _batches(manifest: Manifest) -> str:
    size = f"{manifest.max_batch_rows} rows or {manifest.max_batch_bytes} bytes of several requests"
    waits = f", waiting {manifest.max_wait_ms:g} ms for them" if manifest.max_wait_ms else ""
    target = f", done within {manifest.latency_target_ms:g} ms" if manifest.latency_target_ms else ""
    return f"up to {size}{waits}{target}"


def _print_signature(signature: Signature) -> None:
    console.table(("input", "datatype", "shape", "may be missing"), [_input(spec) for spec in signature.inputs])
    rows = [
        (*_spec(spec), "yes" if isinstance(spec, OutputSpec) and spec.default else "on request")
        for spec in signature.outputs
    ]
    console.table(("output", "datatype", "shape", "default"), rows)
    if signature.parameters:
        given = [(spec.name, spec.datatype, str(spec.default)) for spec in signature.parameters]
        console.table(("parameter", "datatype", "default"), given)


def _input(spec: InputSpec) -> tuple[str, ...]:
    name, datatype, shape = _spec(spec)
    guessed = ", guessed" if spec.guessed else ""
    missing = (
        "left out or not: dropped" if spec.optional else {True: "yes", False: "no", None: "not known"}[spec.nullable]
    )
    return name, datatype + guessed, shape, missing


def _spec(spec: TensorSpec) -> tuple[str, str, str]:
    datatype = f"BYTES ({getattr(spec, 'format', '') or 'text'})" if spec.datatype == "BYTES" else spec.datatype
    sizes = ["rows", *("any" if size == -1 else str(size) for size in spec.shape[1:])]
    return spec.name, datatype, " x ".join(sizes)


def _document(info: ModelInfo) -> dict[str, Any]:
    """Return a model with the defaults that msgspec leaves out, so that a script always finds the state, and without what workers tell."""
    hidden = {"workers", "seen_at", "expected", "variants"}
    return {key: value for key, value in msgspec.structs.asdict(info).items() if key not in hidden}


def _print_findings(models: dict[str, list[Finding]], repository: Repository) -> None:
    if not models:
        console.note(f"no models in {repository.root}: add one with mutirao models add NAME FILE")
    for name, findings in models.items():
        failed = any(not finding.note for finding in findings)
        console.console.print(f"[bold]{name}[/]  " + ("[red]unavailable[/]" if failed else "[green]ok[/]"))
        for finding in findings:
            version = f"version {finding.version}: " if finding.version else ""
            console.console.print(f"  {'note: ' if finding.note else ''}{version}{finding.text}", markup=False)
