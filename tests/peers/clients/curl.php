<?php
// PHP's curl. Follows the plan on its standard input, which `it/senders.rs` describes.

function post(CurlHandle $curl, string $url, string $credentials, string $body, string ...$options): string
{
    $has = fn(string $option): bool => in_array($option, $options, true);
    $headers = [
        'Content-Type: ' . ($has('text') ? 'text/plain' : 'application/json; charset=utf-8'),
        // Without this option, curl does not wait with large bodies either.
        'Expect:' . ($has('expect') ? ' 100-continue' : ''),
    ];
    if ($has('gzip')) {
        $headers[] = 'Content-Encoding: gzip';
    }
    if ($has('chunked')) {
        $headers[] = 'Transfer-Encoding: chunked';
    }
    // The connection outlives this.
    curl_reset($curl);
    curl_setopt_array($curl, [
        CURLOPT_URL => $url,
        CURLOPT_NOPROXY => '*',
        CURLOPT_HTTPHEADER => $headers,
        CURLOPT_POSTFIELDS => file_get_contents($body),
        CURLOPT_RETURNTRANSFER => true,
        CURLOPT_TIMEOUT => $has('impatient') ? 1 : 30,
    ]);
    if ($credentials !== 'none') {
        curl_setopt($curl, CURLOPT_USERPWD, str_starts_with($credentials, 'wrong') ? 'mx:wrong' : 'mx:secret');
    }
    if (str_ends_with($credentials, 'challenge')) {
        curl_setopt($curl, CURLOPT_HTTPAUTH, CURLAUTH_ANY);
    }
    if (curl_exec($curl) === false) {
        return curl_errno($curl) === CURLE_OPERATION_TIMEDOUT ? 'timed out' : curl_error($curl);
    }
    return (string) curl_getinfo($curl, CURLINFO_RESPONSE_CODE);
}

while (($line = fgets(STDIN)) !== false) {
    $requests = explode("\t", rtrim($line, "\n"));
    $name = array_shift($requests);
    $curl = curl_init();
    $answers = array_map(fn(string $request): string => post($curl, ...explode(' ', $request)), $requests);
    echo $name, "\t", implode(' ', $answers), "\n";
}
