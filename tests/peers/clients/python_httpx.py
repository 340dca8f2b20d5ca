"""Python's httpx. Follows the plan on its standard input, which `it/senders.rs` describes."""

import ssl
import sys

import httpx

# Each client would read the certificates of the machine anew.
TLS = ssl.create_default_context()


def pieces(body):
    """The body in pieces, without its length."""
    for start in range(0, len(body), 16384):
        yield body[start : start + 16384]


def post(client, url, credentials, name, *options):
    headers = {"Content-Type": "text/plain" if "text" in options else "application/json; charset=utf-8"}
    if "gzip" in options:
        headers["Content-Encoding"] = "gzip"
    with open(name, "rb") as file:
        body = file.read()
    try:
        return client.post(
            url,
            content=pieces(body) if "chunked" in options else body,
            headers=headers,
            auth={"once": ("mx", "secret"), "wrong": ("mx", "wrong")}.get(credentials),
            timeout=1 if "impatient" in options else 30,
        ).status_code
    except httpx.TimeoutException:
        return "timed out"
    except httpx.HTTPError as error:
        return repr(error)


for line in sys.stdin:
    kind, *plan = line.rstrip("\n").split("\t")
    # No proxy of the environment.
    with httpx.Client(trust_env=False, verify=TLS) as client:
        answers = [str(post(client, *request.split())) for request in plan]
    print(kind, " ".join(answers), sep="\t")
