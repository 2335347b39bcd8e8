"""A headless Chromium for tests of pages: driven by its DevTools protocol over the websocket of aiohttp, which Ray brings."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import aiohttp

PROGRAM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


class Browser:
    """One page. `width`, `height`: of its window in CSS pixels; `script`: whether its scripts run."""

    def __init__(self, folder: Path):
        assert PROGRAM is not None
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        flags += ["--remote-debugging-port=0", "--disable-background-networking", f"--user-data-dir={folder}"]
        self._process = subprocess.Popen([PROGRAM, *flags, "about:blank"], stderr=subprocess.PIPE, text=True)
        self._loop = asyncio.new_event_loop()
        self.said: list[dict] = []  # events: console messages, violations of the page's policy, requests
        self._id = 0
        for line in self._process.stderr:
            if found := re.search(r"ws://\S+", line):
                break
        self._loop.run_until_complete(self._attach(found[0]))

    async def _attach(self, address: str) -> None:
        self._http = aiohttp.ClientSession()
        self._socket = await self._http.ws_connect(address, max_msg_size=0)
        self._session = None
        target = (await self._call("Target.createTarget", url="about:blank"))["targetId"]
        self._session = (await self._call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
            await self._call(f"{domain}.enable")

    async def _call(self, method: str, **parameters) -> dict:
        self._id += 1
        message = {"id": self._id, "method": method, "params": parameters}
        await self._socket.send_json(message | ({"sessionId": self._session} if self._session else {}))
        while True:
            answer = json.loads((await self._socket.receive(timeout=30)).data)
            if answer.get("id") == self._id:
                assert "error" not in answer, (method, answer)
                return answer["result"]
            self.said.append(answer)

    def call(self, method: str, **parameters) -> dict:
        return self._loop.run_until_complete(self._call(method, **parameters))

    def size(self, width: int, height: int, phone: bool = False) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)
        self.wait("document.readyState == 'complete' && location.href != 'about:blank'")

    def value(self, expression: str):
        """The value of an expression of JavaScript in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = 20) -> None:
        """Until an expression is true; also while the page is replaced by another."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
            if answer["result"].get("value") is True:
                return
            time.sleep(0.02)
        raise AssertionError(f"never true: {expression}; the page says {self.value('document.body.innerText')[:500]}")

    def press(self, key: str, code: str = "") -> None:
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=code, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=code)

    def click(self, selector: str) -> None:
        """With the mouse, in the middle of what is seen of an element."""
        place = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        self.value(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'nearest'}})")
        x, y = self.value(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({place})")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def problems(self) -> list[str]:
        """What the browser had to complain of, and requests to elsewhere."""
        self.value("1")
        found = []
        for event in self.said:
            method, of = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown" or (method == "Log.entryAdded" and of["entry"]["level"] == "error"):
                found.append(json.dumps(of)[:300])
            if method == "Audits.issueAdded" and of["issue"]["code"] == "ContentSecurityPolicyIssue":
                found.append(json.dumps(of)[:300])
            if method == "Network.requestWillBeSent" and not re.match(
                r"http://127\.0\.0\.1:|about:", of["request"]["url"]
            ):
                found.append(of["request"]["url"])
        return found

    def close(self) -> None:
        self._loop.run_until_complete(self._socket.close())
        self._loop.run_until_complete(self._http.close())
        self._loop.close()
        self._process.terminate()
        self._process.wait()
        self._process.stderr.close()
