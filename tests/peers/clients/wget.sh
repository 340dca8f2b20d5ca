#!/bin/sh
# wget. Follows the plan on its standard input, which `it/senders.rs` describes. It sends every request of a session
# like the first one.

# URL CREDENTIALS BODY OPTION..., and the URLs of all requests in `urls`.
post() {
    credentials=$2 body=$3
    shift 3
    type='application/json; charset=utf-8' coding='' seconds=30
    for option; do
        case $option in
        gzip) coding='Content-Encoding: gzip' ;;
        text) type=text/plain ;;
        impatient) seconds=1 ;;
        esac
    done
    case $credentials in
    once) set -- --user=mx --password=secret --auth-no-challenge ;;
    wrong) set -- --user=mx --password=wrong --auth-no-challenge ;;
    challenge) set -- --user=mx --password=secret ;;
    wrong-challenge) set -- --user=mx --password=wrong ;;
    *) set -- ;;
    esac
    # One try each: wget would try a connection that was lost again.
    # shellcheck disable=SC2086 # one argument for each URL
    said=$(LC_ALL=C wget --no-config --no-proxy --server-response --tries=1 --timeout=$seconds --output-document=/dev/null \
        --header="Content-Type: $type" ${coding:+--header="$coding"} --post-file="$body" "$@" $urls 2>&1)
    ended=$?
    outcome=$(echo "$said" | sed -n 's,^ *HTTP/1\.1 \([0-9]*\).*,\1,p')
    case $credentials in *challenge) outcome=$(echo "$outcome" | tail -n 1) ;; esac
    case $ended in
    # wget ends with 6 after 401, and with 8 after other refusals.
    0 | 6 | 8) ;;
    *)
        if echo "$said" | grep -q 'timed out'; then
            outcome="$outcome timed out"
        else
            outcome="$outcome and wget ended with $ended: $(echo "$said" | tail -n 3)"
        fi
        ;;
    esac
    # shellcheck disable=SC2086 # one line
    echo $outcome
}

tab=$(printf '\t')
while IFS=$tab read -r name requests; do
    urls='' first=''
    IFS=$tab
    for request in $requests; do
        urls="$urls ${request%% *}" first=${first:-$request}
    done
    IFS=' '
    # shellcheck disable=SC2086 # a request is words
    outcome=$(IFS=' 
'; post $first)
    printf '%s\t%s\n' "$name" "$outcome"
done
