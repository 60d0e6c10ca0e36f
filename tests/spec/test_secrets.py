from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoexp.spec.secrets import AGENT_NAMES, redacted, secrets_in, secrets_in_file, without


@pytest.mark.parametrize(
    "text",
    [
        "sk-" + "ab-cd" * 4,
        "ghp_abcdefghij0123456789",
        "hf_abcdefghij0123456789",
        "AKIAABCDEFGHIJKLMNOP",
        "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.c2lnbmF0dXJlcw",
    ],
)
def test_what_looks_like_a_key_is_struck_out(text: str) -> None:
    assert redacted(f"key {text}, and so on") == "key [redacted], and so on"
    assert without(text) == text


def test_a_bearer_token_is_struck_out() -> None:
    assert redacted("Authorization: Bearer abc.def-123456") == "Authorization: Bearer [redacted]"
    assert redacted("the bearer of bad news") == "the bearer of bad news"


def test_the_secrets_of_a_table_are_found_and_names_of_variables_are_none() -> None:
    table = {
        "apiKey": "secret-one",
        "api_key_env": "MY_API_KEY",
        "headers": {"Authorization": "secret-two", "X-Other": "harmless-text"},
        "list": [{"password": "secret-three"}, {"token": "{env:TOKEN}"}, {"token": "short"}],
        "max_tokens": 5,
    }
    assert set(secrets_in(table)) == {"secret-one", "secret-two", "secret-three"}


def test_the_secrets_of_a_file_are_found_in_json_with_comments_and_toml(tmp_path: Path) -> None:
    for name, text in {
        "a.json": json.dumps({"x": {"apiKey": "secret-one"}}),
        "b.jsonc": '{ // mine\n "apiKey": "secret-one" }',
        "c.toml": 'x = 1\n[y]\napi_key = "secret-one"\n',
    }.items():
        (tmp_path / name).write_text(text)
        assert secrets_in_file(tmp_path / name) == ["secret-one"], name
    assert secrets_in_file(tmp_path / "none") == []


def test_a_secret_within_a_configuration_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCODE_CONFIG_CONTENT", json.dumps({"options": {"apiKey": "letmein12345"}}))
    assert redacted("it said letmein12345") == "it said [redacted]"


@pytest.mark.parametrize(
    ("name", "agents"),
    [
        ("ANTHROPIC_CUSTOM_HEADERS", True),
        ("OPENCODE_CONFIG_CONTENT", True),
        ("AUTOEXP_AGENTS__OPENAI", True),
        ("AUTOEXP_REPORT", False),
        ("AUTOEXP_GPUS", False),
        ("CUDA_VISIBLE_DEVICES", False),
    ],
)
def test_the_variables_that_are_for_agents(name: str, agents: bool) -> None:
    assert bool(AGENT_NAMES.fullmatch(name)) == agents


def test_a_password_in_an_address_is_struck_out() -> None:
    said = "npm failed: https://ada:her-password@registry.example/x and postgres://u:p%40ss@db"
    assert redacted(said) == "npm failed: https://ada:[redacted]@registry.example/x and postgres://u:[redacted]@db"
    for fine in ("http://localhost:11434/v1", "see https://x/a:b@c", "a: b@c.de", '"base_url": "http://h:80", "a@b"'):
        assert redacted(fine) == fine
