"""Headless Chromium, controlled by the DevTools protocol over a pipe."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--mute-audio"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    "--remote-debugging-pipe",
)

_ANSWER_SECONDS = 60


class Page:
    """A page in a browser, with its errors and requests."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._read = b""
        self._sent = 0
        self._session: str | None = None
        # The frame of each JavaScript context, by session and number. A frame may have its own session.
        self._contexts: dict[tuple[str, int], str] = {}
        self.errors: list[str] = []
        """Errors in the console, including uncaught ones."""
        self.requests: list[str] = []
        """The requested addresses."""

    def open(self, address: str, width: int = 1400, height: int = 900) -> None:
        """Open an address and return when it has loaded."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self._call("Page.enable")
        self._watch(self._session)
        self._call("Page.navigate", url=address)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def evaluate(self, expression: str, *, inside: bool = False) -> Any:
        """Return the awaited value of a JavaScript expression in the page, or inside the frame that it shows."""
        answer = self._evaluated(expression, self._framed()[-1] if inside else None)
        assert "exceptionDetails" not in answer.get("result", {}), f"{expression}: {answer}"
        return answer["result"]["result"].get("value")

    def choose_file(self, selector: str, file: Path) -> None:
        """Give a file to the input element that a CSS selector finds, as a user chooses it."""
        root = self._call("DOM.getDocument")["root"]["nodeId"]
        element = self._call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._call("DOM.setFileInputFiles", nodeId=element, files=[str(file)])

    def until(self, condition: str) -> None:
        """Wait until a JavaScript expression is true, for up to 20 seconds."""
        looked = (
            "new Promise((done, fail) => { const end = Date.now() + 20000; const look = () => {"
            f" if ({condition}) done(true); else if (Date.now() > end) fail('never true');"
            " else setTimeout(look, 20); }; look(); })"
        )
        assert self.evaluate(looked), condition

    def until_shown(self, heading: str) -> None:
        """Wait until the page shows a frame with this heading, for up to 20 seconds."""
        seen: list[Any] = []
        for _ in range(400):
            self.evaluate("new Promise(done => setTimeout(done, 50))")
            for context in self._framed():
                # The answer is an error if the frame has loaded another page meanwhile.
                answer = self._evaluated(
                    "document.readyState === 'complete' && document.querySelector('h1')?.textContent", context
                )
                seen = [answer.get("result", {}).get("result", {}).get("value")]
                if seen == [heading]:
                    return
        raise AssertionError(f"no frame has the heading {heading!r}; the last one had {seen}")

    def _framed(self) -> list[tuple[str, int]]:
        main = self._call("Page.getFrameTree")["frameTree"]["frame"]["id"]
        return [context for context, frame in self._contexts.items() if frame != main]

    def _evaluated(self, expression: str, where: tuple[str, int] | None) -> dict[str, Any]:
        session, context = (self._session, {}) if where is None else (where[0], {"contextId": where[1]})
        options = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        return self._answer(self._send("Runtime.evaluate", session, **options, **context))

    def _watch(self, session: str) -> None:
        """Subscribe to the events of a session and of frames with their own process."""
        attach = {"autoAttach": True, "waitForDebuggerOnStart": True, "flatten": True}
        self._send("Target.setAutoAttach", session, **attach)
        for command in ("Runtime.enable", "Log.enable", "Network.enable", "Runtime.runIfWaitingForDebugger"):
            self._send(command, session)

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        answer = self._answer(self._send(method, self._session, **params))
        assert "error" not in answer, f"{method}: {answer['error']}"
        return dict(answer["result"])

    def _send(self, method: str, session: str | None, **params: Any) -> int:
        self._sent += 1
        command = {"id": self._sent, "method": method, "params": params}
        os.write(self._commands, json.dumps(command | ({"sessionId": session} if session else {})).encode() + b"\0")
        return self._sent

    def _answer(self, number: int) -> dict[str, Any]:
        while True:
            message = self._next()
            if message.get("id") == number:
                return message
            self._note(message)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            assert select.select([self._answers], [], [], _ANSWER_SECONDS)[0], "the browser does not answer"
            got = os.read(self._answers, 1 << 20)
            assert got, "the browser has ended"
            self._read += got
        message, _, self._read = self._read.partition(b"\0")
        return dict(json.loads(message))

    def _note(self, message: dict[str, Any]) -> None:
        method, of, session = message.get("method"), message.get("params", {}), message.get("sessionId", "")
        if method == "Target.attachedToTarget" and of["sessionId"] != self._session:
            self._watch(of["sessionId"])
        elif method == "Target.detachedFromTarget":
            self._forget(of["sessionId"])
        elif method == "Runtime.executionContextCreated":
            self._contexts[session, of["context"]["id"]] = of["context"]["auxData"]["frameId"]
        elif method == "Runtime.executionContextDestroyed":
            self._contexts.pop((session, of["executionContextId"]), None)
        elif method == "Runtime.executionContextsCleared":
            self._forget(session)
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(of["exceptionDetails"])[:1000])
        elif method == "Runtime.consoleAPICalled" and of["type"] in ("error", "assert"):
            self.errors.append(json.dumps(of["args"])[:1000])
        elif method == "Log.entryAdded" and of["entry"]["level"] == "error":
            self.errors.append(f"{of['entry']['text']} {of['entry'].get('url', '')[:200]}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(of["request"]["url"])

    def _forget(self, session: str) -> None:
        self._contexts = {context: frame for context, frame in self._contexts.items() if context[0] != session}


@contextmanager
def new_page() -> Iterator[Page]:
    """Yield a page of a new browser, which is closed when the block ends."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    assert program is not None, f"none of {', '.join(NAMES)} is on PATH: `bash envs/setup.sh browser` installs one"
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        # Chromium reads commands from descriptor 3 and writes answers to 4; the shell assigns these numbers.
        browser_input, commands = map(_high_descriptor, os.pipe())
        answers, browser_output = map(_high_descriptor, os.pipe())
        for end in (answers, commands):
            stack.callback(os.close, end)
        command = [program, *_FLAGS, f"--user-data-dir={folder}", "about:blank"]
        browser = subprocess.Popen(
            ["/bin/bash", "-c", f'exec "$@" 3<&{browser_input} 4>&{browser_output}', "bash", *command],
            pass_fds=(browser_input, browser_output),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        stack.callback(browser.wait)
        stack.callback(browser.terminate)
        os.close(browser_input)
        os.close(browser_output)
        yield Page(commands, answers)


def _high_descriptor(number: int) -> int:
    moved = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 20)
    os.close(number)
    return moved
