"""A client whose server is a formula: the vector of number i is the i-th unit vector, modulo the dimension."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

from engine.memory.slots import HEADER_BYTES, Header, body_of
from engine.supervision.worker import Heartbeat, StageContext


def run(context: StageContext) -> None:
    """Turn document slots into vector slots until told to stop.

    Settings: `state` that it says it is in; `pause_s` after each batch, in which it listens to commands, `deaf_s`, in
    which it does not; in the first generation `die_at_rows`, `die_beside` a file, `lose_one` batch.
    """
    heartbeat = Heartbeat(0.1)
    rows = 0
    stopping = is_stopped = False
    dim = context.layout.dim
    last_report = -1
    paused_until_s = 0.0
    die_beside = Path(context.settings["die_beside"]) if "die_beside" in context.settings else None
    is_to_lose = bool(context.settings.get("lose_one")) and context.generation == 1

    def report() -> None:
        state = context.settings.get("state", "ok")
        context.tell("client", rows=rows, requests=rows, quarantined=0, state=state, taken_rows=rows)

    def obey() -> bool:
        """Carry out what has been ordered meanwhile; whether that is to exit."""
        nonlocal stopping
        for command in context.poll_commands():
            if command["do"] == "exit":
                return True
            if command["do"] == "prove":
                if context.settings.get("drifts", 0) >= context.generation and context.role == "client-0":
                    context.tell("drift", server=0, url="http://liar", rows=rows)
                context.tell("proof", number=command["number"])
            stopping = stopping or command["do"] == "stop"
        return False

    while True:
        if obey():
            return
        if stopping and not is_stopped:  # it holds no batch here
            is_stopped = True
            report()
            context.tell("stopped", rows=rows, taken_rows=rows)
        if context.generation == 1 and die_beside is not None and die_beside.exists():
            os._exit(7)
        pause_s = paused_until_s - time.monotonic()
        is_idle = stopping or context.settings.get("state") == "out" or pause_s > 0
        slot = None if is_idle else context.documents_ready.take()
        if slot is None:
            context.wait(min(0.05, pause_s) if pause_s > 0 else 0.05)
        elif is_to_lose:
            is_to_lose = False  # a bug: the batch is neither sent on nor handed back
        else:
            source = context.documents.slot(slot)
            header = Header.unpack_from(source, context.generation)
            assert len(body_of(source, header)) == 0
            while (target_number := context.vectors_free.take()) is None:
                context.wait(0.01)
                if obey():  # the writer frees slots only once its proof has been answered
                    return
            target = context.vectors.slot(target_number)
            end = HEADER_BYTES + header.meta_bytes
            target[HEADER_BYTES:end] = source[HEADER_BYTES:end]
            ids = struct.unpack_from(f"<{header.n_rows}q", source, HEADER_BYTES)
            values = [1.0 if column == number % dim else 0.0 for number in ids for column in range(dim)]
            context.layout.matrix_bytes(target, header.n_rows)[:] = struct.pack(f"<{len(values)}f", *values)
            header.pack_into(target)
            context.vectors_ready.put(target_number)
            context.documents_free.put(slot)
            rows += header.n_rows
            if context.settings.get("die_at_rows", 1 << 60) <= rows and context.generation == 1:
                os._exit(7)
            paused_until_s = time.monotonic() + context.settings.get("pause_s", 0)
            time.sleep(context.settings.get("deaf_s", 0))
        if heartbeat.due() or (slot is None and rows != last_report):
            last_report = rows
            report()
