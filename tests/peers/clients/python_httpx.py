"""Python's httpx."""

import ssl

import httpx

import plan

# Each client would read the certificates of the machine anew.
TLS = ssl.create_default_context()


def session():
    # No proxy of the environment.
    return httpx.Client(trust_env=False, verify=TLS)


def post(client, request):
    try:
        return client.post(
            request.url,
            content=request.body,
            headers=request.headers,
            auth=request.basic(),
            timeout=request.seconds,
        ).status_code
    except httpx.TimeoutException:
        return "timed out"
    except httpx.HTTPError as error:
        return repr(error)


plan.follow(session, post)
