"""Python's urllib.request, which waits for the challenge, and http.client, which keeps the connection."""

import base64
import contextlib
import http.client
import urllib.error
import urllib.parse
import urllib.request

import plan


def challenged(request):
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    passwords.add_password(None, request.url, "mx", request.password)
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPBasicAuthHandler(passwords)
    )
    try:
        post = urllib.request.Request(request.url, request.body, request.headers)
        return opener.open(post, timeout=request.seconds).status
    except urllib.error.HTTPError as error:
        return error.status


def kept(connections, request):
    parts = urllib.parse.urlsplit(request.url)
    connection = connections.get(parts.netloc)
    if connection is None:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=request.seconds)
        connections[parts.netloc] = connection
    try:
        connection.request("POST", parts.path + "?" + parts.query, request.body, request.headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except OSError:
        connection.close()
        raise


def post(connections, request):
    try:
        if request.credentials.endswith("challenge"):
            return challenged(request)
        if request.basic():
            basic = base64.b64encode(":".join(request.basic()).encode()).decode()
            request.headers["Authorization"] = f"Basic {basic}"
        return kept(connections, request)
    except TimeoutError:
        return "timed out"
    except (OSError, http.client.HTTPException) as error:
        return repr(error)


# The connections of a line.
plan.follow(lambda: contextlib.nullcontext({}), post)
