"""A real browser without a window, and what people do with a page in it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

PATIENCE = 120  # seconds; a graph may be compiled meanwhile
PHONE, DESK = (375, 812), (1100, 820)
_LOCAL = ("data", "blob", "chrome", "chrome-untrusted", "chrome-extension", "about", "devtools")


def missing() -> str:
    """What is not installed; "" if all is there."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium"
    return ", ".join(name for name in ("chromium", "chromedriver") if shutil.which(name) is None)


def fonts_with_chinese(file: Path) -> Path:
    """Fontconfig's settings with the fonts of the extra ``fonts`` beside the machine's own, for what pictures show."""
    package = importlib.util.find_spec("mplfonts")
    directory = Path(package.origin).parent / "fonts" if package and package.origin else file.parent
    file.write_text(
        '<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig>'
        f'<include ignore_missing="yes">/etc/fonts/fonts.conf</include><dir>{directory}</dir></fontconfig>'
    )
    return file


class Browser:
    """Chromium with a fresh profile, on a page of ours."""

    def __init__(self, profile: Path, size: tuple[int, int] = DESK, language: str = "en-US"):
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or ""
        for flag in (
            "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
            "disable-component-update", "disable-sync", "disable-dev-shm-usage", "hide-scrollbars", "force-color-profile=srgb",
            f"user-data-dir={profile}", f"lang={language}", f"accept-lang={language}",
        ):  # fmt: skip
            options.add_argument(f"--{flag}")
        options.add_argument("about:blank")  # not the browser's own first page
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        profile.mkdir(parents=True, exist_ok=True)
        fonts = {"FONTCONFIG_FILE": str(fonts_with_chinese(profile / "fonts.conf"))}
        service = webdriver.ChromeService(shutil.which("chromedriver"), env=os.environ | fonts)
        self.driver = webdriver.Chrome(options, service)
        self.addresses: list[str] = []
        self.resize(size)

    def resize(self, size: tuple[int, int]) -> None:
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def open(self, url: str) -> None:
        self.driver.get(url)
        self.wait(lambda: self.one("#question textarea"))

    def close(self) -> None:
        self.driver.quit()

    # What is on the page.

    def all(self, selector: str) -> list:
        return self.driver.find_elements("css selector", selector)

    def one(self, selector: str):
        found = self.all(selector)
        return found[0] if found else None

    def script(self, text: str, *arguments):
        return self.driver.execute_script(text, *arguments)

    def wait(self, found: Callable, seconds: float = PATIENCE):
        """What ``found`` returns as soon as that is true; elements that go meanwhile are looked for again."""
        from selenium.common.exceptions import StaleElementReferenceException

        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if value := found():
                    return value
            except StaleElementReferenceException:
                pass
            time.sleep(0.02)
        raise AssertionError(f"not within {seconds} s; the page says: {self.text()}")

    def text(self) -> str:
        return self.one("body").text

    def answers(self) -> list[str]:
        """The texts of the model's side, thinking and notes included."""
        found = self.all("#chat [data-testid=bot]")
        return [each.text for each in found if each.text.strip() not in ("", "…", "……")]

    def images(self) -> list:
        return [
            each
            for each in self.all("#chat [data-testid=bot] img")
            if self.script("return arguments[0].naturalWidth", each)
        ]

    # What is done with it.

    def upload(self, *files: Path) -> None:
        before = len(self.all("#question .thumbnail-item"))
        place = self.wait(lambda: self.one("#question input[type=file]"))
        self.script("arguments[0].value = ''", place)  # or the driver would add to what it held
        place.send_keys("\n".join(map(str, files)))
        self.wait(lambda: len(self.all("#question .thumbnail-item")) == before + len(files))

    def ask(self, question: str) -> None:
        """Type it and press Enter; returns when the page has taken it."""
        field = self.one("#question textarea")
        self.script("arguments[0].focus()", field)
        self.driver.execute_cdp_cmd("Input.insertText", {"text": question})
        self.wait(lambda: field.get_property("value") == question)
        field.send_keys("\n")
        self.wait(lambda: not self.one("#question textarea").get_property("value"))

    def click(self, selector: str) -> None:
        self.wait(lambda: (found := self.one(selector)) and (found.click(), True))

    def idle(self) -> bool:
        return bool(self.all("#question .submit-button")) and not self.all("#question .stop-button")

    def answered(self, count: int) -> list[str]:
        """The answers, once there are ``count`` messages of the model's side and none grows."""
        return self.wait(lambda: self.idle() and len(self.answers()) >= count and self.answers())

    def screenshot(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(file))

    # What it asked for.

    def requested(self) -> list[str]:
        """All addresses that the browser has asked for, or tried to."""
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self.addresses.append(message["params"]["request"]["url"])
        return self.addresses

    def foreign(self) -> list[str]:
        """Those that are not this machine's."""
        parts = [(address, urlsplit(address)) for address in self.requested()]
        return [a for a, p in parts if p.scheme not in _LOCAL and p.hostname not in ("127.0.0.1", "localhost")]

    def complaints(self) -> list[str]:
        """What the browser's console has of errors."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
