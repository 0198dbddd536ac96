"""Headers and authorities for servers behind proxies: from files alone, and never in a word of ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.standin import StandinConfig, StandinFleet
from commands.composition.servers import client_settings
from commands.options.secrets import RunSecrets, server_secrets
from engine.config import RunConfig, ServersConfig
from engine.errors import ConfigError
from engine.telemetry import logs
from gpu_clients.servers.doctor import examine


def header_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    """A file of headers."""
    path = folder / "headers"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_every_line_is_a_header(tmp_path: Path) -> None:
    path = header_file(tmp_path, "# of the proxy\nAuthorization: Basic dXNlcjpw\n\nX-Tenant:  blue team \n")
    assert server_secrets(None, path, None).headers == (
        ("Authorization", "Basic dXNlcjpw"),
        ("X-Tenant", "blue team"),
    )


def test_values_are_kept_out_of_logs_and_out_of_what_prints_them(tmp_path: Path) -> None:
    secrets = server_secrets(None, header_file(tmp_path, "Authorization: Basic bTRya2Vy\nX-Key: m4rk3r\n"), None)
    assert "m4rk3r" not in repr(secrets)
    assert logs.redact("sent m4rk3r and bTRya2Vy") == "sent *** and ***"


@pytest.mark.parametrize(
    "line",
    [
        "no colon m4rk3r",
        ": m4rk3r",
        "Two words: m4rk3r",
        "Host: m4rk3r",
        "content-length: 7",
        "X: sm\u00f6rg\u0000 m4rk3r",
    ],
)
def test_a_line_that_is_no_header_of_the_users_is_refused_without_its_value(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError, match="line 2") as caught:
        server_secrets(None, header_file(tmp_path, f"A: b\n{line}\n"), None)
    assert "m4rk3r" not in str(caught.value)


def test_a_header_of_the_file_opens_a_server_that_wants_it(tmp_path: Path) -> None:
    """From the file to the server, the way that every command goes."""
    path = header_file(tmp_path, "Authorization: Bearer right-m4rk3r\n")
    with StandinFleet(StandinConfig(backend="canned", api_key="right-m4rk3r")) as fleet:
        config = RunConfig(servers=ServersConfig(urls=fleet.urls))
        for secrets in (RunSecrets(mongo_uri=""), RunSecrets(mongo_uri="", servers=server_secrets(None, path, None))):
            settings = client_settings(config, secrets)
            if secrets.servers.headers:
                assert examine(settings).dim == 768
            else:
                with pytest.raises(ConfigError, match="API key"):
                    examine(settings)
    assert "m4rk3r" not in repr(settings)


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="chmod 600"):
        server_secrets(None, header_file(tmp_path, "A: b\n", mode=0o644), None)


def test_a_key_and_an_authorization_header_are_one_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_TEI_API_KEY", "k")
    with pytest.raises(ConfigError, match="one of them"):
        server_secrets(None, header_file(tmp_path, "authorization: Basic dTpw\n"), None)


def test_a_file_of_authorities_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--tei-ca-file .*gone\.pem"):
        server_secrets(None, None, tmp_path / "gone.pem")
