"""What a person has who uses an agent: the program, a home with its configuration, and a key for the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

KEY = "sk-night-0123456789abcdef0123456789abcdef"
"""Of the person, for their model: in what the agent sends, and nowhere else."""


def a_home(path: Path) -> dict[str, str]:
    """A new home, in which no agent is configured yet. It is in no folder for temporary files: Codex puts the program
    of its sandbox into its home, and into none that is."""
    temporary = path / "temporary"
    temporary.mkdir(parents=True, exist_ok=True)
    return {"HOME": str(path), "TMPDIR": str(temporary)} | {
        f"XDG_{kind}_HOME": str(path / kind.lower()) for kind in ("DATA", "CONFIG", "STATE", "CACHE")
    }


def opencode_config(url: str, key: str) -> dict[str, Any]:
    """OpenCode's configuration for the model at `url`, of a person who lets it do everything."""
    models = {"m": {"name": "m", "tool_call": True, "limit": {"context": 32000, "output": 4000}}}
    options = {"baseURL": f"{url}/v1", "apiKey": key}
    return {
        "model": "stub/m",
        "small_model": "stub/m",
        "share": "disabled",
        "autoupdate": False,
        "enabled_providers": ["stub"],
        "permission": {"edit": "allow", "bash": "allow"},
        "provider": {"stub": {"npm": "@ai-sdk/openai-compatible", "options": options, "models": models}},
    }


def for_opencode(home: Path, url: str) -> dict[str, str]:
    """The environment of a person whose OpenCode asks the model at `url`."""
    environ = a_home(home)
    config = opencode_config(url, "{env:OPENAI_API_KEY}")
    folder = Path(environ["XDG_CONFIG_HOME"], "opencode")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "opencode.json").write_text(json.dumps(config))
    return environ | {"OPENAI_API_KEY": KEY, "OPENCODE_DISABLE_MODELS_FETCH": "1"}


def for_claude(home: Path, url: str) -> dict[str, str]:
    """The environment of a person whose Claude Code asks the model at `url`."""
    quiet = {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_TELEMETRY": "1", "DISABLE_AUTOUPDATER": "1"}
    return a_home(home) | {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": KEY} | quiet


def for_codex(home: Path, url: str) -> dict[str, str]:
    """The environment of a person whose Codex asks the model at `url`."""
    environ = a_home(home)
    folder = home / ".codex"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(
        'model = "m"\nmodel_provider = "stub"\ncheck_for_update_on_startup = false\n'
        f'[model_providers.stub]\nname = "Stub"\nbase_url = "{url}/v1"\nenv_key = "OPENAI_API_KEY"\n'
        'wire_api = "responses"\nstream_max_retries = 1\n[analytics]\nenabled = false\n'
    )
    return environ | {"OPENAI_API_KEY": KEY}
