"""`mutirao models`: what is in the model repository."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.markup import escape

from mutirao import errors, keyspace, settings
from mutirao.cli import console
from mutirao.cli.options import broker
from mutirao.client.redis_backend import RedisBackend
from mutirao.redisdb.drivers import RedisDriver
from mutirao.registry import ModelInfo
from mutirao.settings import Settings
from mutirao.wire.signature import InputSpec, OutputSpec, Signature, TensorSpec
from mutirao_worker.models.manifest import Manifest
from mutirao_worker.models.repository import Finding, Repository

_SHOWN = 4
# A worker of the same repository notices within this time that a model was removed.
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

Command = Callable[..., Any]


class _Folder(click.ParamType[Repository]):
    name = "DIR"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Repository:  # noqa: ARG002 - click's
        """Open the repository, at the folder of the settings where none is given."""
        return value if isinstance(value, Repository) else Repository(value)


def _repository_options(command: Command) -> Command:
    folder = click.option(
        "--models",
        "--repository",
        "repository",
        type=_Folder(),
        default=lambda: settings.load().models,
        help="The model repository; MUTIRAO_MODELS, or ./models by default.",
    )
    return folder(click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")(command))


def _limit_options(command: Command) -> Command:
    for name, kind, unit, says in reversed(_LIMITS):
        command = click.option(name, type=kind, metavar=unit, help=says)(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog="Example: mutirao models list")
def models() -> None:
    """Add, list, check and remove the models that workers serve."""


@models.command(
    short_help="Add a fitted estimator as a new version of a model.",
    epilog="Example: mutirao models add houses houses.joblib --example houses.csv",
)
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
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
@_repository_options
def add(
    name: str,
    file: Path,
    repository: Repository,
    *,
    as_json: bool,
    time_limit: float | None,
    max_wait: float | None,
    latency_target: float | None,
    **options: Any,
) -> None:
    """Add a fitted estimator, saved with joblib or pickle, as a new version of model NAME.

    FILE is loaded for that, which runs what is in it: add only files that you trust.
    """
    options |= {"time_limit_s": time_limit, "max_wait_ms": max_wait, "latency_target_ms": latency_target}
    info = repository.add(name, file, **options)
    if as_json:
        console.emit_json(_document(info))
        return
    console.console.print(f"added [bold]{info.name}[/] version {escape(info.version)}, now the active one{_of(info)}")
    _print_signature(info.signature)
    if info.reason:
        console.note(f"note: {info.reason}")
    console.console.print("Running workers load it at their next start.", style="dim")


@models.command("list", short_help="List the models and their states.", epilog="Example: mutirao models list --json")
@_repository_options
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
@_repository_options
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


@models.command(
    short_help="Check files against their digests, and load each model.",
    epilog="Example: mutirao models verify && mutirao worker",
)
@click.argument("name", required=False)
@_repository_options
@click.pass_context
def verify(ctx: click.Context, name: str | None, repository: Repository, *, as_json: bool) -> int:
    """Check the files of all models (or of NAME) against their digests, load each and run its example.

    Exits with 1 where a model cannot be served; notes do not count.
    """
    found = {each: repository.verify(each) for each in ([name] if name else repository.names())}
    if as_json:
        console.emit_json(
            {each: [msgspec.structs.asdict(finding) for finding in findings] for each, findings in found.items()}
        )
    else:
        _print_findings(found, repository)
    failed = any(not finding.note for findings in found.values() for finding in findings)
    ctx.exit(console.Exit.FAILED if failed else console.Exit.OK)


@models.command(short_help="Choose the version that is served.", epilog="Example: mutirao models activate iris 1")
@click.argument("name")
@click.argument("version")
@_repository_options
def activate(name: str, version: str, repository: Repository, *, as_json: bool) -> None:
    """Make VERSION the one that is served, for example to go back to an earlier one."""
    info = repository.activate(name, version)
    if as_json:
        console.emit_json(_document(info))
        return
    console.console.print(f"version {info.version} of [bold]{info.name}[/] is now the active one")
    console.console.print("Running workers load it at their next start.", style="dim")


@models.command(epilog="Example: mutirao models remove iris --version 1 --yes")
@click.argument("name")
@click.option("--version", metavar="V", help="Only this version; the whole model by default.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@_repository_options
def remove(name: str, version: str | None, repository: Repository, *, yes: bool, as_json: bool) -> None:
    """Remove a model, or one version of it, with its files."""
    what = f"version {version} of model {name}" if version else f"model {name} with all its versions"
    if not yes:
        _check_there(repository, name, version)
        click.confirm(f"Remove {what} from {repository.root}?", abort=True, err=True)
    repository.remove(name, version)
    remaining = "" if name in repository.names() else _withdrawn(name)
    if as_json:
        console.emit_json({"removed": name, "version": version})
    else:
        console.console.print(f"removed {what}", markup=False)
    if remaining:
        console.note(f"note: {remaining}")


def _check_there(repository: Repository, name: str, version: str | None) -> None:
    """Refuse a model or a version that does not exist, before the confirmation."""
    known = repository.info(name).versions
    if version is not None and known and version not in known:
        text = f"model {name!r} has no version {version!r}: it has {', '.join(known)}"
        raise errors.ModelNotFound(text, model=name, known=known)


@models.command(
    short_help="Take a model off the catalogue of running systems.", epilog="Example: mutirao models forget iris"
)
@click.argument("name")
@broker
def forget(name: str, broker_url: str | None) -> None:
    """Take model NAME off the catalogue of running systems, where no live worker has it in its repository.

    `remove` does it by itself where it reaches Redis. Workers forget a model that nobody has announced for a day.
    """
    keyspace.model_name(name)
    status, *workers = _withdraw(settings.load(broker_url=broker_url), name)
    if status == "unknown":
        raise errors.ModelNotFound(f"model {name!r} is not in the catalogue: mutirao doctor names those that are")
    if status == "kept":
        raise errors.ModelExists(f"model {name!r} is still in the repository of {', '.join(workers)}: remove it there")
    console.console.print(f"{name} is in the catalogue no more", markup=False)


def _withdrawn(name: str) -> str:
    """Withdraw a removed model from the catalogue; return what is left to do, "" for nothing."""
    given, deadline = settings.load(), time.monotonic() + NOTICED_S
    try:
        while True:
            status, *workers = _withdraw(
                msgspec.structs.replace(given, timeout_s=min(given.timeout_s, NOTICED_S)), name
            )
            if status != "kept":
                return ""
            if time.monotonic() > deadline:
                return f"{', '.join(workers)} still has it in its repository, so it is served: remove it there, too"
            time.sleep(0.1)
    except errors.MutiraoError as exc:
        return f"a running system may still list it ({exc}); where there is one: mutirao models forget {name}"


def _withdraw(given: Settings, name: str) -> tuple[str, ...]:
    if given.uses_gateway:
        text = f"{settings.without_password(given.broker_url)} is a gateway: set MUTIRAO_BROKER_URL to its Redis"
        raise errors.InvalidRequest(text, reason="a gateway's URL")
    with contextlib.closing(RedisDriver(given)) as redis:
        return redis.run(RedisBackend(given, check=False).withdraw([name]))[0]


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


def _of(info: ModelInfo) -> str:
    return f" of {len(info.versions)}" if len(info.versions) > 1 else ""


def _print_settings(repository: Repository, info: ModelInfo) -> None:
    found = repository.manifest(info.name)
    soft = f", interrupted after {found.soft_time_limit_s:g} s" if found.soft_time_limit_s else ""
    others = [version for version in info.versions if version != info.version]
    lines = {
        "version": info.version + (f" (also here: {', '.join(others)})" if others else ""),
        "runtime": f"{info.runtime}, saved with {found.version.saved_with}"
        + (", no other accepted" if found.strict_version else ""),
        "limits": f"{found.max_rows} rows in a request, stopped after {found.time_limit_s:g} s{soft}",
        "batches": _batches(found),
        "attempts": f"{found.max_attempts}, where the process dies or is stopped",
        "folder": str(repository.root / info.name),
    }
    for key, value in lines.items():
        console.console.print(f"{key:<8} {value}", markup=False)


def _batches(found: Manifest) -> str:
    waits = f", waiting {found.max_wait_ms:g} ms for them" if found.max_wait_ms else ""
    target = f", done within {found.latency_target_ms:g} ms" if found.latency_target_ms else ""
    return f"up to {found.max_batch_rows} rows or {found.max_batch_bytes} bytes of several requests{waits}{target}"


def _print_signature(signature: Signature) -> None:
    console.table(("input", "datatype", "shape", "may be missing"), [_input(spec) for spec in signature.inputs])
    rows = [
        (*_spec(spec), "yes" if isinstance(spec, OutputSpec) and spec.default else "on request")
        for spec in signature.outputs
    ]
    console.table(("output", "datatype", "shape", "default"), rows)


def _input(spec: InputSpec) -> tuple[str, ...]:
    name, datatype, shape = _spec(spec)
    guessed = ", guessed" if spec.guessed else ""
    return name, datatype + guessed, shape, {True: "yes", False: "no", None: "not known"}[spec.nullable]


def _spec(spec: TensorSpec) -> tuple[str, str, str]:
    datatype = "BYTES (text)" if spec.datatype == "BYTES" else spec.datatype
    sizes = ["rows", *("any" if size == -1 else str(size) for size in spec.shape[1:])]
    return spec.name, datatype, " x ".join(sizes)


def _document(info: ModelInfo) -> dict[str, Any]:
    """Return a model with the defaults that msgspec leaves out, so that a script always finds the state; nothing of workers is known here."""
    hidden = {"workers", "seen_at", "expected", "variants"}
    return {key: value for key, value in msgspec.structs.asdict(info).items() if key not in hidden}


def _print_findings(found: dict[str, list[Finding]], repository: Repository) -> None:
    if not found:
        console.note(f"no models in {repository.root}: add one with mutirao models add NAME FILE")
    for name, findings in found.items():
        failed = any(not finding.note for finding in findings)
        console.console.print(f"[bold]{name}[/]  " + ("[red]unavailable[/]" if failed else "[green]ok[/]"))
        for finding in findings:
            version = f"version {finding.version}: " if finding.version else ""
            console.console.print(f"  {'note: ' if finding.note else ''}{version}{finding.text}", markup=False)
