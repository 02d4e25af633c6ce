#!/usr/bin/env bash
# The browser that tests/serve/test_page.py drives: Debian's Chromium, where this is Debian and we are root; elsewhere
# those tests are skipped unless chromium and chromedriver are on PATH.
command -v chromium >/dev/null && command -v chromedriver >/dev/null && exit 0
if [[ $(id -u) -ne 0 ]] || ! apt-cache show chromium-driver >/dev/null 2>&1 && ! apt-get update -qq >/dev/null 2>&1; then
    echo "chromium is not installed: the tests of the page in a browser are skipped" >&2
    exit 0
fi
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null 2>&1 ||
    echo "chromium could not be installed: the tests of the page in a browser are skipped" >&2
