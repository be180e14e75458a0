"""What the product uses of other libraries' insides: every name is listed here, and each still exists as it is used."""

import ast
import functools
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"producer": "mutirao", "worker": "mutirao_worker"}

# Where a name is, and the names: those of a class or a module; after "*", those that a module stores on objects of other modules.
# A name with parameters is called, or replaced, with just these ("=": it has a default).
SEAMS = {
    "_signal": ("getitimer", "getsignal", "pthread_sigmask"),
    "billiard.common": ("TERM_SIGNAL", "terminate_handler_fired()"),
    "billiard.pool": ("ACK", "DEATH", "READY", "TERMINATE"),
    "billiard.pool*": ("inq", "outq", "inqW_fd", "outqR_fd"),
    "billiard.pool:ApplyResult": ("_accepted", "_job", "_scheduled_for", "_worker_pid", "discard()", "ready()"),
    "billiard.pool:TimeoutHandler": ("on_hard_timeout(job)", "on_soft_timeout(job)"),
    "billiard.pool:Worker": ("inq", "outq", "synq"),
    "billiard.process:BaseProcess": ("_controlled_termination", "_is_alive()", "_popen", "_target"),
    "billiard.queues:_SimpleQueue": ("_reader", "_writer"),
    "celery.backends.redis:RedisBackend": (
        "_create_client(**params)",
        "_ensure_retryable(func, *args, fallback_exc=, fallback_msg=, max_retries=, **kwargs)",
        "_get_result_meta(result, state, traceback, request, format_date=, encode=)",
        "_params_from_url(url, defaults)",
        "_store_result(task_id, result, state, traceback=, request=, **kwargs)",
        "exception_to_python(exc)",
        "mark_as_failure(task_id, exc, traceback=, request=, store_result=, call_errbacks=, state=)",
        "on_chord_part_return(request, state, result, propagate=, **kwargs)",
        "prepare_exception(exc, serializer=)",
    ),
    "celery.concurrency.asynpool": ("WORKER_UP",),
    "celery.concurrency.asynpool*": ("_sentinel_poll", "consolidate_callback", "dead"),
    "celery.concurrency.asynpool:AsynPool": (
        "_active_writes",
        "_all_inqueues",
        "_busy_workers",
        "_cache",
        "_find_worker_queues(proc)",
        "_pool",
        "_process_by_pid(pid)",
        "_queues",
        "_result_handler",
        "_state",
        "_track_child_process(proc, hub)",
        "create_process_queues()",
        "destroy_queues(queues, proc)",
        "flush()",
        "on_hard_timeout",
        "on_soft_timeout",
        "outbound_buffer",
        "process_flush_queues(proc)",
    ),
    "celery.concurrency.asynpool:ResultHandler": (
        "_flush_outqueue(fd, remove, process_index, on_state_change)",
        "_make_process_result(hub)",
        "fileno_to_outq",
        "on_state_change",
        "state_handlers",
    ),
    "celery.concurrency.prefork:TaskPool": (
        "_pool",
        "did_start_ok()",
        "maintain_pool(*args, **kwargs)",
        "num_processes",
        "terminate_job(pid, signal=)",
    ),
    "celery.events.dispatcher:EventDispatcher": (
        "clock",
        "connection",
        "delivery_mode",
        "disable()",
        "enabled",
        "exchange",
        "groups",
        "headers",
        "hostname",
        "producer",
    ),
    "celery.utils.threads": ("bound_open_broker_sockets(connection, timeout)",),
    "celery.worker.consumer.events*": ("event_dispatcher",),
    "celery.worker.consumer.tasks*": ("qos", "task_consumer"),
    "celery.worker.consumer:Consumer": (
        "_limit_task(request, bucket, tokens)",
        "call_soon(p, *args, **kwargs)",
        "cancel_active_requests()",
        "conninfo",
        "ensure_connected(conn)",
        "on_close()",
        "on_connection_error_after_connected(exc)",
        "on_connection_error_before_connected(exc)",
        "on_decode_error(message, exc)",
        "on_invalid_task(body, message, exc)",
        "on_task_request",
        "on_unknown_message(body, message)",
        "on_unknown_task(body, message, exc)",
        "register_with_event_loop(hub)",
        "task_buckets",
    ),
    "celery.worker.request:Request": ("_eta_timer_entry",),
    "celery.worker.state": (
        "active_requests",
        "all_total_count",
        "maybe_shutdown()",
        "requests",
        "reserved_requests",
        "revoked",
        "scheduled_requests",
        "task_scheduled(request, add_request=, add_scheduled_request=, all_reserved_requests=, all_active_requests=)",
        "total_count",
    ),
    "concurrent.futures:ProcessPoolExecutor": ("_processes",),
    "kombu.asynchronous.hub:Hub": (
        "add_reader(fds, callback, *args)",
        "call_repeatedly(delay, callback, *args)",
        "consolidate_callback",
        "remove_reader(fd)",
    ),
    "kombu.compression": ("encoders()", "get_encoder(t)", "register(encoder, decoder, content_type, aliases=)"),
    "kombu.transport": ("TRANSPORT_ALIASES", "_transport_cache"),
    "kombu.transport.redis": ("_socket_readable(sock)",),
    "kombu.transport.redis:Channel": (
        "QoS",
        "ResponseError",
        "_brpop_read(**options)",
        "_brpop_sent_at",
        "_brpop_start(timeout=)",
        "_create_client(asynchronous=)",
        "_disconnect_pools()",
        "_flush_brpop_reauth()",
        "_get_publish_topics(exchange, routing_key)",
        "_in_poll",
        "_on_connection_disconnect(connection)",
        "_purge(queue)",
        "_put(queue, message, **kwargs)",
        "_put_fanout(exchange, message, routing_key, **kwargs)",
        "_queue_cycle",
        "active_queues",
        "auto_delete_queues",
        "conn_or_acquire(client=)",
        "connection_errors",
        "no_ack_consumers",
        "socket_timeout",
        "subclient",
    ),
    "kombu.transport.redis:QoS": ("can_consume()", "restore_visible(start=, num=, interval=)"),
    "kombu.transport.redis:Transport": ("Channel", "_deliver(message, queue)", "connection_errors"),
    "os:_Environ": ("_data",),
    "redis.asyncio:Connection": (
        "_send_packed_command(command)",
        "_writer",
        "pack_command(*args)",
        "pack_commands(commands)",
        "read_response(disable_decoding=, timeout=, disconnect_on_error=, push_request=)",
    ),
    "redis.asyncio:ConnectionPool": ("connection_class",),
    "redis:Connection": (
        "_sock",
        "can_read(timeout=)",
        "pack_commands(commands)",
        "read_response(disable_decoding=, timeout=, disconnect_on_error=, push_request=)",
        "send_packed_command(command, check_health=)",
    ),
    "sklearn.compose:ColumnTransformer": ("_transformer_to_input_indices",),
    "sklearn.ensemble:ExtraTreesClassifier": ("_validate_X_predict(X)",),
    "sklearn.ensemble:ExtraTreesRegressor": ("_validate_X_predict(X)",),
    "sklearn.ensemble:HistGradientBoostingClassifier": ("_preprocessor",),
    "sklearn.ensemble:RandomForestClassifier": ("_validate_X_predict(X)",),
    "sklearn.ensemble:RandomForestRegressor": ("_validate_X_predict(X)",),
    "uvicorn.protocols.http.flow_control:FlowControl": ("__init__(transport)", "resume_reading()"),
    "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol": (
        "connection_made(transport)",
        "cycle",
        "data_received(data)",
        "flow",
        "headers",
        "loop",
        "on_body(body)",
        "on_header(name, value)",
        "on_headers_complete()",
        "on_message_begin()",
        "on_message_complete()",
        "on_response_complete()",
        "pipeline",
        "send_400_response(msg)",
        "transport",
        "url",
    ),
    "uvicorn.protocols.http.httptools_impl:RequestResponseCycle": (
        "expected_content_length",
        "keep_alive",
        "more_body",
        "response_complete",
        "response_started",
        "scope",
        "send(message)",
        "transport",
    ),
    "uvicorn:Server": (
        "_captured_signals",
        "capture_signals()",
        "server_state",
        "shutdown(sockets=)",
        "startup(sockets=)",
    ),
    "warnings": ("_filters_mutated",),
}
# Options of calls that are read out of `**kwargs`, thus in no signature.
OPTIONS = {"kombu.transport.redis": ("_publish_batch",)}
# Documented, though they begin as private names do.
DOCUMENTED = {"_asdict", "_estimator_type", "_exit", "_fields", "_make", "_replace"}
# The project's own, which one of its modules sets on an object and reads there.
OWN = {"_traceback"}

LISTED = [(owner, name) for owner, names in SEAMS.items() for name in names]


@pytest.mark.parametrize(("owner", "name"), LISTED, ids=[f"{owner}.{name}" for owner, name in LISTED])
def test_a_name_that_is_used_of_another_library_is_there(owner, name):
    """Each listed name exists, with the parameters that the code goes by."""
    what = fault(owner, name)
    assert not what, f"{owner}.{name}: {what}; used by {users(name.partition('(')[0])}"


@pytest.mark.parametrize(("module", "option"), [(module, each) for module, names in OPTIONS.items() for each in names])
def test_an_option_that_is_read_of_another_library_is_there(module, option):
    """Each listed option is taken out of the keyword arguments there."""
    source = inspect.getsource(importlib.import_module(module))
    assert f"kwargs.pop('{option}'" in source, f"{module} knows no option {option}; used by {users(option)}"


def test_no_private_name_of_another_library_is_used_that_is_not_listed():
    """A private name that the product uses and does not define itself is in the list."""
    known = {plain(name) for _, name in LISTED} | SEAMS.keys() | set().union(*OPTIONS.values()) | DOCUMENTED | OWN
    found = sorted({(name, where) for path in modules() for name, where in private_names(path) if name not in known})
    assert not found, "list these in SEAMS, with what holds them: " + ", ".join(f"{n} ({w})" for n, w in found)


def test_the_list_has_no_name_that_nothing_uses():
    """A name that the product uses no more is out of the list."""
    words = set().union(*(re.findall(r"\w+", path.read_text(encoding="utf-8")) for path in modules()))
    unused = [f"{owner}.{name}" for owner, name in LISTED if plain(name) not in words]
    assert not unused, f"take these off SEAMS: {', '.join(unused)}"


@pytest.mark.parametrize(
    ("owner", "name", "what"),
    [
        ("billiard.pool:ApplyResult", "_gone", "there is no such name"),
        ("billiard.pool:ApplyResult", "discard(job)", "its parameters are now ()"),
        ("billiard.pool:Gone", "_job", "there is no class Gone"),
        ("billiard.pool*", "_gone", "this module stores no such name"),
    ],
)
def test_a_name_that_is_gone_is_found(owner, name, what):
    """What the list could name and is not so is told."""
    assert fault(owner, name) == what


@pytest.mark.parametrize(
    "code",
    [
        "from kombu.transport import _transport_cache",
        "from kombu._private import thing",
        "pool._gone()",
        "self._pool._gone = 1",
        "getattr(pool, '_gone', None)",
        "setattr(pool, '_gone', 1)",
    ],
)
def test_a_private_name_of_another_library_is_found(tmp_path, code):
    """Each way to use a private name of something else is seen."""
    path = tmp_path / "new.py"
    path.write_text(f"class New:\n    def do(self, pool):\n        {code}\n")
    assert {name for name, _ in private_names(path)} & {"_gone", "_private", "_transport_cache"}


def plain(name):
    return name.partition("(")[0]


def modules():
    return [path for folder, package in PACKAGES.items() for path in sorted((ROOT / folder / package).rglob("*.py"))]


def users(name):
    """The modules in which a name stands."""
    uses = [path for path in modules() if re.search(rf"\b{name}\b", path.read_text(encoding="utf-8"))]
    return ", ".join(path.relative_to(ROOT).as_posix() for path in uses)


def fault(owner, name):
    """Say what is wrong with a listed name; "" where it is as listed."""
    module_name, _, class_name = owner.partition(":")
    name, called, parameters = name.partition("(")
    module = importlib.import_module(module_name.rstrip("*"))
    if owner.endswith("*"):
        return "" if name in stored(module) else "this module stores no such name"
    if class_name and not hasattr(module, class_name):
        return f"there is no class {class_name}"
    holder = getattr(module, class_name) if class_name else module
    if not hasattr(holder, name):
        return "" if class_name and not called and name in attributes(holder) else "there is no such name"
    if called and (signature := described(holder, getattr(holder, name))) != f"({parameters}":
        return f"its parameters are now {signature}"
    return ""


def described(holder, function):
    """Write a function's parameters as the list does, a method's without the first."""
    stars: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    taken = [
        f"{stars.get(each.kind, '')}{each.name}{'' if each.default is each.empty else '='}"
        for each in inspect.signature(function).parameters.values()
    ]
    return f"({', '.join(taken[1:] if inspect.isclass(holder) else taken)})"


@functools.cache
def stored(item):
    """The names of attributes that the source of a class or a module stores, on whatever."""
    return {each.attr for each in nodes(item) if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store)}


def nodes(item):
    """What stands in the source of a class or a module; nothing where there is none, as of builtins."""
    module = item if inspect.ismodule(item) else importlib.import_module(item.__module__)
    name = "" if item is module else item.__qualname__
    return list(ast.walk(sources(module)[name])) if name in sources(module) else []


@functools.cache
def sources(module):
    """A module's source, and that of its classes by their names."""
    path = getattr(module, "__file__", None) or ""
    if not path.endswith(".py"):
        return {}
    found: dict[str, ast.AST] = {"": ast.parse(Path(path).read_text(encoding="utf-8"))}
    waiting = [("", found[""])]
    while waiting:
        outer, node = waiting.pop()
        for each in ast.iter_child_nodes(node):
            name = f"{outer}.{each.name}".lstrip(".") if isinstance(each, ast.ClassDef) else outer
            found |= {name: each} if name != outer else {}
            waiting.append((name, each))
    return found


def attributes(kind):
    """Every name that an object of a class may have: of its bases and itself, set in the class or by its methods."""
    return set().union(*(vars(each).keys() | stored(each) for each in kind.__mro__))


def is_private(name):
    return name.startswith("_") and not name.startswith("__") and name != "_"


def private_names(path):
    """The private names that a module uses of something that is not its own, each with where."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    where = path.name if ROOT not in path.parents else path.relative_to(ROOT).as_posix()
    own_classes = {each.name for each in ast.walk(tree) if isinstance(each, ast.ClassDef)}
    for node in ast.walk(tree):
        for name in _named(node, own_classes):
            if is_private(name):
                yield name, f"{where}:{getattr(node, 'lineno', '')}"
    for name in inherited(where):
        yield name, where


def _named(node, own_classes):
    named = []
    match node:
        case ast.Attribute(value=ast.Name(id=base)) if base in {"self", "cls"} | own_classes:
            pass  # see `inherited`
        case ast.Attribute(value=ast.Call(func=ast.Name(id="super"))):
            pass
        case ast.Attribute(attr=name):
            named = [name]
        case ast.ImportFrom(module=str(module), names=names) if module.split(".")[0] not in PACKAGES.values():
            named = [*module.split("."), *(each.name for each in names)]
        case ast.Import(names=names):
            named = [part for each in names for part in each.name.split(".")]
        case ast.Call(func=ast.Name(id="getattr" | "setattr" | "hasattr"), args=[_, ast.Constant(value=str(name)), *_]):
            named = [name]
        case ast.Call(func=ast.Attribute(attr="get" | "pop"), args=[ast.Constant(value=str(name)), *_]):
            named = [name]
    return named


def inherited(where):
    """The private names of other libraries' classes that classes of a module use, or define anew, through `self` and `super()`."""
    parts = Path(where).with_suffix("").parts
    if parts[0] not in PACKAGES or parts[-1] == "__main__":
        return
    if "(" not in "".join(re.findall(r"^class .*", (ROOT / where).read_text(encoding="utf-8"), re.MULTILINE)):
        return
    module = importlib.import_module(".".join(parts[1:]).removesuffix(".__init__"))
    for kind in [
        each for each in vars(module).values() if inspect.isclass(each) and each.__module__ == module.__name__
    ]:
        ours = [each for each in kind.__mro__ if each.__module__.split(".")[0] in PACKAGES.values()]
        others = [each for each in kind.__mro__ if each not in ours and each.__module__ not in {"builtins", "typing"}]
        theirs = set(filter(is_private, set().union(*(vars(each).keys() | stored(each) for each in others))))
        yield from sorted(theirs & set().union(*map(_used, ours)) if theirs else ())


@functools.cache
def _used(kind):
    """The names that the source of a class defines, annotates, or uses of `self`, `cls` and `super()`."""
    found = set()
    for node in nodes(kind):
        match node:
            case ast.Attribute(attr=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                found.add(name)
    return found
