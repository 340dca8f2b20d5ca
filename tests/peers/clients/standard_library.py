"""Python's http.client, and its urllib.request.

standard_library.py URL FOLDER TRIES
"""

import http.client
import pathlib
import sys
import urllib.error
import urllib.parse
import urllib.request

URL, FOLDER, TRIES = sys.argv[1:]
SAMPLE, LARGE, HUGE = (
    pathlib.Path(FOLDER, f"{name}.json").read_bytes() for name in ("sample", "large", "huge")
)
JSON = {"Content-Type": "application/json; charset=utf-8"}
BASIC = {"Authorization": "Basic bXg6c2VjcmV0"}


def attempt(kind, post):
    for _ in range(int(TRIES)):
        try:
            outcome = post()
        except OSError as error:
            outcome = repr(error)
        except http.client.HTTPException as error:
            outcome = repr(error)
        print(kind, outcome, sep="\t")


def refused_then_valid(body):
    """On one connection, which http.client makes anew if an answer said that it ends."""
    url = urllib.parse.urlsplit(URL)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
    statuses = []
    for content, headers in ((body, JSON), (SAMPLE, JSON | BASIC)):
        connection.request("POST", url.path, content, headers)
        answer = connection.getresponse()
        answer.read()
        statuses.append(str(answer.status))
    connection.close()
    return " ".join(statuses)


def challenged(body, password="secret"):
    """By urllib.request, which sends the credentials when it is asked for them."""
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    passwords.add_password(None, URL, "mx", password)
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPBasicAuthHandler(passwords)
    )
    try:
        return opener.open(urllib.request.Request(URL, body, JSON), timeout=30).status
    except urllib.error.HTTPError as error:
        return error.status


attempt("545 B refused, then the sample", lambda: refused_then_valid(SAMPLE))
attempt("60 KiB refused, then the sample", lambda: refused_then_valid(LARGE))
attempt("1 MiB refused, then the sample", lambda: refused_then_valid(HUGE))
attempt("545 B, challenge first", lambda: challenged(SAMPLE))
attempt("60 KiB, challenge first", lambda: challenged(LARGE))
attempt("1 MiB, wrong password", lambda: challenged(HUGE, "wrong"))
