"""Python's requests. Follows the plan on its standard input, which `it/senders.rs` describes."""

import sys

import requests


def pieces(body):
    """The body in pieces, without its length."""
    for start in range(0, len(body), 16384):
        yield body[start : start + 16384]


def post(session, url, credentials, name, *options):
    headers = {"Content-Type": "text/plain" if "text" in options else "application/json; charset=utf-8"}
    if "gzip" in options:
        headers["Content-Encoding"] = "gzip"
    with open(name, "rb") as file:
        body = file.read()
    try:
        return session.post(
            url,
            data=pieces(body) if "chunked" in options else body,
            headers=headers,
            auth={"once": ("mx", "secret"), "wrong": ("mx", "wrong")}.get(credentials),
            timeout=1 if "impatient" in options else 30,
        ).status_code
    except requests.Timeout:
        return "timed out"
    except requests.RequestException as error:
        return repr(error)


for line in sys.stdin:
    kind, *plan = line.rstrip("\n").split("\t")
    with requests.Session() as session:
        # No proxy of the environment.
        session.trust_env = False
        answers = [str(post(session, *request.split())) for request in plan]
    print(kind, " ".join(answers), sep="\t")
