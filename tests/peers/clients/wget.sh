#!/bin/sh
# wget.sh URL FOLDER TRIES
url=$1 folder=$2 tries=$3

# A kind, a body, and options. One try each: wget would try a connection that was lost again.
post() {
    kind=$1 body=$2
    shift 2
    for _ in $(seq "$tries"); do
        said=$(wget --no-config --no-proxy --server-response --tries=1 --timeout=30 --output-document=/dev/null \
            --header='Content-Type: application/json; charset=utf-8' \
            --post-file="$folder/$body.json" "$@" "$url" 2>&1)
        ended=$?
        outcome=$(echo "$said" | sed -n 's,^ *HTTP/1\.1 \([0-9]*\).*,\1,p' | tail -n 1)
        # What wget makes of 401 is 6.
        [ $ended = 0 ] || [ $ended = 6 ] || outcome="wget ended with $ended after ${outcome:-no answer}"
        printf '%s\t%s\n' "$kind" "$outcome"
    done
}

post '545 B, challenge first' sample --user=mx --password=secret
post '60 KiB, challenge first' large --user=mx --password=secret
post '60 KiB, credentials at once' large --user=mx --password=secret --auth-no-challenge
post '60 KiB, no credentials' large
post '1 MiB, no credentials' huge
post '1 MiB, wrong password' huge --user=mx --password=wrong
