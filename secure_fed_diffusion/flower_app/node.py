"""A hospital's node: Flower's SuperNode, and beside it, in the same process, what answers its messages.

Flower's own way is that the coordinator submits an app bundle and every SuperNode runs the code in it.
Whoever sends the code decides, so here nothing that is sent is run: the SuperNode is started in its
isolation mode "process", in which it leaves the answering to somebody else, and that is this module, which
takes each message through Flower's Runtime API and gives it to the INSTALLED `client_app.app`.  The bundle
is fetched, as Flower does, and never unpacked into Python.  One process stays up, so torch is imported
once, and a message costs no start of a process; Flower's wait of 3 s between two polls is shortened, and
the two halves ring for each other instead of polling.

Not protected against: a SuperNode that is started in another way; another program under this account.  The
Runtime API listens on 127.0.0.1 in clear, behind a secret that only this process knows.

Source: flwr 1.41, `supernode/runtime/run_clientapp.py`, whose functions this uses; the pin `flwr<1.42` holds
for the private names among them.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib import import_module
from itertools import count, pairwise
from types import ModuleType, SimpleNamespace
from typing import Any

from flwr.app import Context, Error, Message
from flwr.common.config import parse_config_args
from flwr.common.constant import ErrorCode, SubStatus
from flwr.proto.fleet_pb2 import ActivateNodeRequest, ActivateNodeResponse
from flwr.proto.runtime_pb2 import AcquireTaskRequest, SendTaskHeartbeatRequest
from flwr.supercore import heartbeat
from flwr.supercore import log as flower_log
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.cli.flower_supernode import flower_supernode
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output
from httpx import HTTPStatusError, TransportError

from secure_fed_diffusion.entropy import system
from secure_fed_diffusion.errors import SecureFedDiffusionError
from secure_fed_diffusion.institution.start import POLL_VARIABLE

log = logging.getLogger(__name__)
App = Callable[[Message, Context], Message]
_HOST = "127.0.0.1"
_TASK_POLL_SECONDS = 2.0  # for a task that came without a ring
_HEARTBEAT_SECONDS = 20  # Flower's own: 30
_START_SECONDS = 0.2
_ACTIVATION_SECONDS = 2.0
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"


def main() -> None:
    """Start both; `sys.argv` is `flower-supernode`'s, without what is decided here."""
    logging.getLogger("flwr").propagate = False  # it has its own handler, and others configure the root
    try:
        _open_first(sys.argv)
    except SecureFedDiffusionError as error:
        sys.exit(f"sfd: not started, {error}")
    _be_patient()
    bells = _Bells(float(os.environ.get(POLL_VARIABLE, "0.5")))
    bells.hang(start_client_internal)
    port, secret = _free_port(), system(32).hex()
    with tempfile.NamedTemporaryFile("w", prefix="sfd-node-") as file:  # readable by this account alone
        file.write(secret)
        file.flush()
        sys.argv += ["--isolation", "process", "--host", _HOST, "--port", str(port)]
        sys.argv += ["--superexec-auth-secret-file", file.name]
        where = (f"{_HOST}:{port}", secret.encode(), bells)
        worker = threading.Thread(target=_work, args=where, daemon=True)
        worker.start()
        flower_supernode()


def _open_first(words: list[str]) -> None:
    """Open the institution that the command line names, records and all, before the node connects."""
    from secure_fed_diffusion.flower_app.client_app import INSTITUTION, open_institution

    for word, value in pairwise(words):
        if word == "--node-config":
            named = parse_config_args([value]).get(INSTITUTION)
            if isinstance(named, str):
                open_institution(named)


def _be_patient() -> None:
    """Come back soon after a kill: beat more often, and ask again where the SuperLink does not let us in yet.

    It counts a node as there until two beats are missing, and refuses a second process of the same key until
    then; it refuses a key that is not registered yet in the same words.
    """
    fleet_http_connection.HEARTBEAT_DEFAULT_INTERVAL = _HEARTBEAT_SECONDS
    heartbeat.HEARTBEAT_DEFAULT_INTERVAL = _HEARTBEAT_SECONDS
    activate = FleetHttpClient.ActivateNode

    def ask_again(client: FleetHttpClient, request: ActivateNodeRequest) -> ActivateNodeResponse:
        attempts = count()
        while True:
            try:
                return activate(client, request)
            except HTTPStatusError:
                if next(attempts) % 5 == 0:
                    flower_log(
                        logging.WARNING,
                        "The SuperLink does not let this node in yet: its key is not registered, or a former "
                        "process of it was killed less than %d s ago. Trying again.",
                        2 * _HEARTBEAT_SECONDS,
                    )
                time.sleep(_ACTIVATION_SECONDS)

    FleetHttpClient.ActivateNode = ask_again  # type: ignore[method-assign]


class _Bells:
    """How the SuperNode's loop and the worker wake each other: a message is there, an answer is there."""

    def __init__(self, poll_seconds: float) -> None:
        self._poll_seconds = poll_seconds
        self.message, self.answer = threading.Event(), threading.Event()

    def hang(self, loop: ModuleType) -> None:
        """Put them into the SuperNode's loop: into its sleep, and behind its pulling of a message."""
        pull = loop._pull_and_store_message

        def pull_and_ring(*args: Any, **kwargs: Any) -> Any:
            pulled = pull(*args, **kwargs)
            if pulled is not None:
                self.message.set()
            return pulled

        loop._pull_and_store_message = pull_and_ring  # type: ignore[attr-defined]
        loop.time = SimpleNamespace(sleep=self.sleep)  # type: ignore[attr-defined]

    def sleep(self, seconds: float) -> None:
        """Sleep no longer than the poll, nor beyond the next answer."""
        self.answer.wait(min(seconds, self._poll_seconds))
        self.answer.clear()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _work(address: str, secret: bytes, bells: _Bells) -> None:
    """Answer for as long as the process lives; should that ever end, the process ends with it."""
    try:
        from secure_fed_diffusion.flower_app.client_app import app

        import_module("secure_fed_diffusion.federation.contribution")  # torch and all: now, not in a round
        answer_tasks(address, secret, app, bells)
    except BaseException:
        log.exception("the node's worker failed")
        os._exit(1)


def answer_tasks(address: str, secret: bytes, app: App, bells: _Bells) -> None:
    """Take one task after the other from the Runtime API at `address`, for ever."""
    acquiring = RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={_ACQUIRE}),
        ],
    )
    wanted = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
    while True:
        try:
            taken = acquiring.AcquireTask(wanted)
        except TransportError:  # it is not up yet
            time.sleep(_START_SECONDS)
            continue
        if taken.HasField("task") and taken.token:
            answer_task(address, taken.token, app, bells)
        else:
            bells.message.wait(_TASK_POLL_SECONDS)
            bells.message.clear()


def answer_task(address: str, token: str, app: App, bells: _Bells) -> None:
    """Take one message, let `app` answer it, and hand the answer over; an error of `app` is an answer too."""
    client = RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"),
            RuntimeTokenHttpInterceptor(token),
        ],
    )  # without Flower's retries: they end the whole process where a token has just lost its task
    alive = HeartbeatSender(lambda: _beat(client))
    alive.start()
    context: Context | None = None
    status, details = SubStatus.FAILED, "the message could not be taken"
    try:
        message, context, _run, _bundle = pull_task_input(client)  # the bundle stays a row of bytes
        try:
            reply = app(message, context)
            status, details = SubStatus.COMPLETED, ""
        except Exception as error:
            log.exception("the client app raised")
            details = type(error).__name__
            reply = Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, details), reply_to=message)
        push_message(client, reply, context)
        bells.answer.set()
    except Exception:
        log.exception("a task was given up")
    finally:
        alive.stop()
        push_task_output(client, context, status, details)
        client.close()


def _beat(client: RuntimeHttpClient) -> bool:
    """Say that the task is being worked on; that it was given up meanwhile is no reason to stop the node."""
    try:
        client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
    except Exception:
        return False
    return True


if __name__ == "__main__":
    main()
