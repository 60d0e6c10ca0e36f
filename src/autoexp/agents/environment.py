"""The environment of an agent: what is named here, what the agent is known to need, what the user adds."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

ALLOWED = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "COLORTERM", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR"),
    *("XDG_*", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "VIRTUAL_ENV"),
)
"""For any program. `*` stands for the rest of a name. Of git's own variables those that would turn an agent's git
towards the user's checkout are not among them."""


def environment(*names: Iterable[str], more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of this process that ALLOWED or `names` names, with `more` in their place."""
    wanted = (*ALLOWED, *(name for some in names for name in some))
    found = {name: text for name, text in os.environ.items() if any(fnmatchcase(name, each) for each in wanted)}
    return {**found, **(more or {})}
