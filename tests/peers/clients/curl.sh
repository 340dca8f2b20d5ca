#!/bin/sh
# curl. Follows the plan on its standard input, which `it/senders.rs` describes.

# Prints curl's configuration for a request: URL CREDENTIALS BODY OPTION...
configuration() {
    url=$1 credentials=$2 body=$3
    shift 3
    outcome='%{http_code}' type='application/json; charset=utf-8' expect='' seconds=30
    for option; do
        case $option in
        chunked) echo 'header = "Transfer-Encoding: chunked"' ;;
        # Without this option, curl does not wait with large bodies either.
        expect) expect=' 100-continue' ;;
        gzip) echo 'header = "Content-Encoding: gzip"' ;;
        text) type=text/plain ;;
        impatient) seconds=1 ;;
        connection) outcome='%{http_code} %header{connection}' ;;
        esac
    done
    case $credentials in
    once) echo 'user = "mx:secret"' ;;
    wrong) echo 'user = "mx:wrong"' ;;
    challenge) printf 'anyauth\nuser = "mx:secret"\n' ;;
    wrong-challenge) printf 'anyauth\nuser = "mx:wrong"\n' ;;
    esac
    cat <<END
url = "$url"
data-binary = "@$body"
header = "Content-Type: $type"
header = "Expect:$expect"
max-time = $seconds
noproxy = "*"
silent
output = "/dev/null"
write-out = "$outcome=%{exitcode} "
next
END
}

tab=$(printf '\t')
while IFS=$tab read -r name requests; do
    # All requests of a session by one curl, which keeps the connection.
    IFS=$tab
    for request in $requests; do
        IFS=' '
        # shellcheck disable=SC2086 # a request is words
        configuration $request
    done | sed '$d' >curl.configuration
    outcome=$(curl --disable --config curl.configuration |
        sed 's/=0 / /g; s/000=28 /timed out /g; s/=\([0-9]*\) / and curl ended with \1 /g; s/ $//')
    printf '%s\t%s\n' "$name" "$outcome"
done
