#!/bin/sh
# curl.sh URL FOLDER TRIES
url=$1 folder=$2 tries=$3

# A kind, a format of curl's for the outcome, and arguments.
post() {
    kind=$1 format=$2
    shift 2
    for _ in $(seq "$tries"); do
        outcome=$(curl --disable --noproxy '*' --silent --max-time 30 --output /dev/null \
            --header 'Content-Type: application/json; charset=utf-8' --write-out "$format" "$@" "$url")
        ended=$?
        [ $ended = 0 ] || outcome="curl ended with $ended after $outcome"
        printf '%s\t%s\n' "$kind" "$outcome"
    done
}

status='%{http_code}'
sample="@$folder/sample.json" large="@$folder/large.json" huge="@$folder/huge.json"
post '545 B, challenge first' "$status" --anyauth --user mx:secret --data-binary "$sample"
post '60 KiB, challenge first' "$status" --anyauth --user mx:secret --data-binary "$large"
post '60 KiB, credentials at once' "$status" --user mx:secret --data-binary "$large"
post '60 KiB, expects 100' "$status" --user mx:secret --header 'Expect: 100-continue' --data-binary "$large"
post '1 MiB, no credentials' "$status" --header 'Expect:' --data-binary "$huge"
post '1 MiB, wrong password' "$status" --anyauth --user mx:wrong --header 'Expect:' --data-binary "$huge"
# The body is never asked for, so the connection is of no more use, and the answer says so.
post '1 MiB, no credentials, expects 100' "$status %header{connection}" \
    --header 'Expect: 100-continue' --data-binary "$huge"
# Both with one curl, which keeps the connection if it may.
post '1 MiB refused, then the sample' "$status " --header 'Expect:' --data-binary "$huge" "$url" --next \
    --silent --max-time 30 --output /dev/null --write-out "$status" --user mx:secret \
    --header 'Content-Type: application/json; charset=utf-8' --data-binary "$sample"
