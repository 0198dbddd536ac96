"""A reader over the numbers 0 .. n-1, without those that a file lists as marked."""

from __future__ import annotations

import json
import os
import struct
import time
from pathlib import Path

from engine.memory.slots import HEADER_BYTES, Header
from engine.supervision.worker import Heartbeat, StageContext


def run(context: StageContext) -> None:
    """Publish every number that is not marked; then wait for the supervisor.

    Settings: `linger_in_pass`, the number of a pass in which it reads nothing until it is told to stop.
    """
    settings = context.settings
    heartbeat = Heartbeat(0.1)
    published = batches = 0

    def report() -> None:
        context.tell("reader", documents=published, batches=batches, quarantined=0, skipped=0, estimate=None)

    def is_stopped() -> bool:
        if not any(command["do"] == "stop" for command in context.poll_commands()):
            return False
        report()
        context.tell("stopped", documents=published, work_left=True)
        wait_for_exit(context)
        return True

    for attempt in range(10):
        while settings.get("linger_in_pass") == attempt + 1:
            if is_stopped():
                return
            context.wait(0.05)
            if heartbeat.due():
                report()
        marked = set(json.loads(Path(settings["marked"]).read_text() or "[]"))
        if attempt:
            marked |= set(settings.get("deleted_after_first_pass", ()))
        todo = [number for number in range(settings["n"]) if number not in marked]
        found = 0
        for start in range(0, len(todo), settings["batch"]):
            ids = todo[start : start + settings["batch"]]
            while (slot := context.documents_free.take()) is None:
                if is_stopped():
                    return
                context.wait(0.05, context.documents_free.read_fd)
                if heartbeat.due():
                    report()
            view = context.documents.slot(slot)
            blob = struct.pack(f"<{len(ids)}q", *ids)
            view[HEADER_BYTES : HEADER_BYTES + len(blob)] = blob
            view[HEADER_BYTES + len(blob) : HEADER_BYTES + len(blob) + len(ids)] = bytes(len(ids))
            header = Header(
                generation=context.generation,
                n_rows=len(ids),
                sequence=batches,
                ids_bytes=len(blob),
                flags_bytes=len(ids),
                columns_bytes=0,
            )
            header.pack_into(view)
            context.documents_ready.put(slot)
            published += len(ids)
            found += len(ids)
            batches += 1
            if settings.get("die_at") == batches and context.generation == 1:
                os._exit(9)
            if settings.get("pause_s"):
                time.sleep(settings["pause_s"])
        report()
        context.tell("pass_done", documents=published, found=found, **{"pass": attempt + 1})
        while True:
            commands = [command["do"] for command in context.poll_commands()]
            if "exit" in commands:
                return
            if "stop" in commands:
                context.tell("stopped", documents=published, work_left=False)
            if "rescan" in commands:
                break
            report()
            context.wait(0.1)


def wait_for_exit(context: StageContext) -> None:
    """Answer nothing more."""
    while not any(command["do"] == "exit" for command in context.poll_commands()):
        context.wait(0.1)
