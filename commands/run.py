"""`engine run`: preflight, composition of the stages, the run, the summary."""

from __future__ import annotations

import logging
import secrets as tokens
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import engine
from engine import durable
from engine.config import RunConfig, to_toml
from engine.errors import ConfigError, Exit, FingerprintMismatch, SinkError
from engine.generation import RingPlan
from engine.ids import IdType
from engine.ledger import Ledger, RunState
from engine.ports import StagePlan
from engine.quarantine import Quarantine
from engine.records import Fingerprint
from engine.runfolder import RESERVE_BYTES, RunFolders, RunLock
from engine.signals import SignalInbox
from engine.slots import HEADER_BYTES, VectorLayout
from engine.supervisor import Observer, RunPlan, Supervisor

_log = logging.getLogger("engine.run")

LEDGER_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSecrets:
    """What may not stand in a configuration file, a log or a process's arguments."""

    mongo_uri: str
    api_keys: tuple[str, ...] = ()
