// Node's fetch. Follows the plan on its standard input, which `it/senders.rs` describes. Its connections are
// shared by all sessions.

import { readFileSync } from 'node:fs';

const passwords = { once: 'secret', wrong: 'wrong' };

async function post(url, credentials, name, ...options) {
    const headers = {
        'Content-Type': options.includes('text') ? 'text/plain' : 'application/json; charset=utf-8',
    };
    if (options.includes('gzip')) {
        headers['Content-Encoding'] = 'gzip';
    }
    if (credentials in passwords) {
        headers.Authorization = `Basic ${btoa(`mx:${passwords[credentials]}`)}`;
    }
    let body = readFileSync(name);
    if (options.includes('chunked')) {
        body = new Blob([body]).stream();
    }
    const seconds = options.includes('impatient') ? 1 : 30;
    const signal = AbortSignal.timeout(seconds * 1000);
    try {
        const answer = await fetch(url, { method: 'POST', headers, body, duplex: 'half', signal });
        await answer.arrayBuffer();
        return String(answer.status);
    } catch (error) {
        return error.name === 'TimeoutError' ? 'timed out' : `${error}: ${error.cause}`;
    }
}

for (const line of readFileSync(0, 'utf8').trimEnd().split('\n')) {
    const [kind, ...requests] = line.split('\t');
    const answers = [];
    for (const request of requests) {
        answers.push(await post(...request.split(' ')));
    }
    console.log(`${kind}\t${answers.join(' ')}`);
}
