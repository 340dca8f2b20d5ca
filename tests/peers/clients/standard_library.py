"""Python's urllib.request, which waits for the challenge, and http.client, which keeps the connection.

Follows the plan on its standard input, which `it/senders.rs` describes.
"""

import base64
import http.client
import sys
import urllib.error
import urllib.parse
import urllib.request


def pieces(body):
    """The body in pieces, without its length."""
    for start in range(0, len(body), 16384):
        yield body[start : start + 16384]


def challenged(url, password, body, headers, seconds):
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    passwords.add_password(None, url, "mx", password)
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPBasicAuthHandler(passwords)
    )
    try:
        return opener.open(urllib.request.Request(url, body, headers), timeout=seconds).status
    except urllib.error.HTTPError as error:
        return error.status


def kept(session, url, body, headers, seconds):
    parts = urllib.parse.urlsplit(url)
    connection = session.get(parts.netloc)
    if connection is None:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=seconds)
        session[parts.netloc] = connection
    try:
        connection.request("POST", parts.path + "?" + parts.query, body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except OSError:
        connection.close()
        raise


def post(session, url, credentials, name, *options):
    headers = {"Content-Type": "text/plain" if "text" in options else "application/json; charset=utf-8"}
    if "gzip" in options:
        headers["Content-Encoding"] = "gzip"
    with open(name, "rb") as file:
        body = file.read()
    if "chunked" in options:
        body = pieces(body)
    password = "wrong" if credentials.startswith("wrong") else "secret"
    seconds = 1 if "impatient" in options else 30
    try:
        if credentials.endswith("challenge"):
            return challenged(url, password, body, headers, seconds)
        if credentials != "none":
            basic = base64.b64encode(f"mx:{password}".encode()).decode()
            headers["Authorization"] = f"Basic {basic}"
        return kept(session, url, body, headers, seconds)
    except TimeoutError:
        return "timed out"
    except (OSError, http.client.HTTPException) as error:
        return repr(error)


for line in sys.stdin:
    kind, *requests = line.rstrip("\n").split("\t")
    session = {}
    answers = [str(post(session, *request.split())) for request in requests]
    print(kind, " ".join(answers), sep="\t")
