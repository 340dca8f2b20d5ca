"""Python's requests."""

import requests

import plan


def session():
    opened = requests.Session()
    # No proxy of the environment.
    opened.trust_env = False
    return opened


def post(session, request):
    try:
        return session.post(
            request.url,
            data=request.body,
            headers=request.headers,
            auth=request.basic(),
            timeout=request.seconds,
        ).status_code
    except requests.Timeout:
        return "timed out"
    except requests.RequestException as error:
        return repr(error)


plan.follow(session, post)
