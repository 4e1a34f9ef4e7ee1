"""Waits for moto and Azurite and makes a bucket in the one and a container in the other."""

import base64
import hashlib
import hmac
import os
import sys
import time
import urllib.error
import urllib.request
from email.utils import formatdate

PATIENCE_S = 120
VERSION = "2021-12-02"


def put(url, headers):
    """Asks until there is an answer: servers take a while to start."""
    started = time.monotonic()
    while True:
        request = urllib.request.Request(url, data=b"", headers=headers, method="PUT")
        try:
            return urllib.request.urlopen(request, timeout=10).status
        except urllib.error.HTTPError:
            raise
        except OSError:
            if time.monotonic() - started > PATIENCE_S:
                raise
            time.sleep(0.1)


def make_bucket(name):
    put(f"{os.environ['KILN_TEST_MOTO']}/{name}", {})


def make_container(name):
    account = os.environ["KILN_TEST_AZURITE_ACCOUNT"]
    key = base64.b64decode(os.environ["KILN_TEST_AZURITE_KEY"])
    date = formatdate(usegmt=True)
    kind = "application/octet-stream"
    # The emulator's path begins with the account, which is in front of the resource once more.
    lines = ["PUT", "", "", "", "", kind, "", "", "", "", "", ""]
    lines += [f"x-ms-date:{date}", f"x-ms-version:{VERSION}"]
    lines += [f"/{account}/{account}/{name}", "restype:container"]
    signed = hmac.new(key, "\n".join(lines).encode(), hashlib.sha256).digest()
    headers = {
        "x-ms-date": date,
        "x-ms-version": VERSION,
        "Content-Type": kind,
        "Authorization": f"SharedKey {account}:{base64.b64encode(signed).decode()}",
    }
    put(f"{os.environ['KILN_TEST_AZURITE']}/{name}?restype=container", headers)


make_bucket(sys.argv[1])
make_container(sys.argv[1])
