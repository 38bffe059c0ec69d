"""Pulling an image: minutes on a slow line, so on the event loop; leaving it makes the engine stop (Engine API,
"Create an image")."""

import asyncio
import json
import re
from pathlib import Path
from urllib.parse import urlencode

from edgeappliance.edged.engine import auth
from edgeappliance.edged.engine.api import Credentials, EngineAway, PullFailed
from edgeappliance.edged.engine.wire import Answer, ask, refusal

SILENCE = 300.0
"""Seconds without a word of progress after which a pull is given up. Unpacking onto a slow card is silent for long."""

FIRST_WORD = 60.0
"""Seconds for the first word, which the engine has when it has read the manifest."""

MAX_LINE = 1024 * 1024

_UNREACHABLE = re.compile(
    r"dial (?:tcp|udp)|no such host|network is unreachable|connection (?:refused|reset)|i/o timeout|"
    r"TLS handshake timeout|Client\.Timeout exceeded|server misbehaving|name resolution|: EOF\b|"
    r"context deadline exceeded|(?:status|code)[^0-9]{0,10}5\d\d|toomanyrequests|service unavailable",
    re.IGNORECASE,
)
"""What engines (20.10 to 28) say when it is not the image that is at fault."""

_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:]+\])(?::[0-9]+)?"
_NAME = re.compile(
    rf"(?P<name>(?:{_HOST}/)?{_PART}(?:/{_PART})*)(?::(?P<tag>\w[\w.-]{{0,127}}))?"
    r"(?:@(?P<digest>[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9A-Fa-f]{32,}))?",
    re.ASCII,
)
"""The grammar of image references (distribution, "reference")."""


def parse(name: str) -> tuple[str, str]:
    """Repository and tag or digest of an image name, `latest` without. Raises PullFailed with InvalidImageName."""
    found = _NAME.fullmatch(name) if len(name) <= 512 else None
    if found is None:
        raise PullFailed(
            f'Failed to apply default image tag "{name[:512]}": couldn\'t parse image name "{name[:512]}": '
            "invalid reference format",
            reason="InvalidImageName",
        )
    return found["name"], found["digest"] or found["tag"] or "latest"


async def pull(socket: Path, api: str, name: str, credentials: Credentials | None) -> None:
    """One try. api: `/v1.41`. Raises PullFailed, EngineAway."""
    repository, tag = parse(name)
    headers = {}
    if credentials is not None:
        headers["X-Registry-Auth"] = auth.header(credentials, auth.split(name)[0])
    target = f"{api}/images/create?{urlencode({'fromImage': repository, 'tag': tag})}"
    try:
        async with asyncio.timeout(FIRST_WORD):
            answer = await ask(socket, "POST", target, headers=headers, timeout=SILENCE)
    except TimeoutError:
        registry = auth.split(name)[0]
        raise PullFailed(f"no answer from registry {registry} within {FIRST_WORD:g} s", unreachable=True) from None
    try:
        if answer.status != 200:
            raise _failed(refusal(answer.status, await answer.body()).message)
        await _follow(answer)
    finally:
        await answer.close()


async def _follow(answer: Answer) -> None:
    """Read the progress to its end: a JSON object a line, one with `error` when it failed."""
    rest = b""
    while True:
        try:
            async with asyncio.timeout(SILENCE):
                data = await answer.read()
        except TimeoutError:
            raise PullFailed(f"no progress within {SILENCE:g} s", unreachable=True) from None
        *lines, rest = (rest + data).split(b"\n")
        if not data:
            lines.append(rest)
        elif len(rest) > MAX_LINE:
            raise EngineAway("the Docker Engine's progress has no end of line")
        for line in lines:
            if b'"error' in line:
                _raise_error(line)
        if not data:
            return


def _raise_error(line: bytes) -> None:
    try:
        step = json.loads(line)
    except ValueError:
        return  # cut short by the engine's end: the image is looked for in any case
    if isinstance(step, dict) and step.get("error"):
        raise _failed(str(step["error"])[:4096])


def _failed(message: str) -> PullFailed:
    """Worded as a kubelet shows the message of a runtime."""
    text = f"Error response from daemon: {message.strip()}"
    return PullFailed(text, unreachable=_UNREACHABLE.search(message) is not None)
