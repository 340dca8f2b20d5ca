"""Reads the plan on the standard input, which `it/senders.rs` describes, for the clients of Python."""

import sys


class Request:
    """A request of the plan."""

    def __init__(self, url, credentials, file, *options):
        self.url = url
        self.credentials = credentials
        self.headers = {"Content-Type": "text/plain" if "text" in options else "application/json; charset=utf-8"}
        if "gzip" in options:
            self.headers["Content-Encoding"] = "gzip"
        with open(file, "rb") as content:
            self.body = content.read()
        if "chunked" in options:
            self.body = pieces(self.body)
        self.password = "wrong" if credentials.startswith("wrong") else "secret"
        self.seconds = 1 if "impatient" in options else 30

    def basic(self):
        """The credentials that are sent at once."""
        return None if self.credentials == "none" else ("mx", self.password)


def pieces(body):
    """The body in pieces, without its length."""
    for start in range(0, len(body), 16384):
        yield body[start : start + 16384]


def follow(session, post):
    """Sends the requests of each line in a session of its own, and prints the answers."""
    for line in sys.stdin:
        kind, *requests = line.rstrip("\n").split("\t")
        with session() as opened:
            answers = [str(post(opened, Request(*request.split()))) for request in requests]
        print(kind, " ".join(answers), sep="\t")
