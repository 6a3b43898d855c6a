// The same as follow.py with imapflow (npm): one connection; waiting is ended by DONE to write, and goes on from the bookmark.
//
// usage: PASSWORD=… node follow.js [--once] HOST PORT USER STATEFILE     (port 993: TLS; --once: catches up, and ends)
'use strict';

const fs = require('fs');
const readline = require('readline');
const { ImapFlow } = require('imapflow');

const BASE = '/private/vendor/example/';
const atom = value => ({ type: 'ATOM', value });
const string = value => ({ type: 'STRING', value });
const literal = value => ({ type: 'LITERAL', value: Buffer.from(value) });

const once = process.argv[2] === '--once';
const [host, port, user, path] = process.argv.slice(once ? 3 : 2);
let state = { mark: null, entries: {} };
if (fs.existsSync(path)) state = JSON.parse(fs.readFileSync(path, 'utf8'));

const client = new ImapFlow({
    host, port: Number(port), secure: port === '993', doSTARTTLS: port === '993' ? undefined : false,
    auth: { user, pass: process.env.PASSWORD }, logger: false, disableAutoIdle: true
});
let arrived = new Map();
let reset = false;
let waiting = false; // the server has said "+ idling"
let ended = once; // standard input is at its end
const writes = [];

function consistent(mark) {
    if (reset) {
        for (const name of Object.keys(state.entries)) if (!arrived.has(name)) arrived.set(name, null);
    }
    for (const [name, value] of arrived) {
        if (state.entries[name] === value || (value === null && !(name in state.entries))) continue;
        if (value === null) delete state.entries[name];
        else state.entries[name] = value;
        console.log(name.slice(BASE.length) + ' ' + (value === null ? '(removed)' : value));
    }
    arrived = new Map();
    reset = false;
    state.mark = mark;
    fs.writeFileSync(path + '.new', JSON.stringify(state));
    fs.renameSync(path + '.new', path);
}

const untagged = {
    METADATA: async response => {
        const list = response.attributes[1];
        for (let i = 0; i < list.length; i += 2) {
            arrived.set(list[i].value.toString(), list[i + 1] ? list[i + 1].value.toString() : null);
        }
    },
    OK: async response => {
        const code = response.attributes[0] && response.attributes[0].section;
        if (!code || code[0].value !== 'XMETASYNC') return;
        if (Array.isArray(code[1])) consistent(code[1].map(token => token.value));
        else if (code[1].value === 'RESET') [arrived, reset] = [new Map(), true];
    }
};

function interrupt() {
    if (!waiting || (!writes.length && !ended)) return;
    waiting = false;
    client.write('DONE');
}

async function main() {
    await client.connect();
    client.on('close', () => process.exit(ended ? 0 : 1));
    if (!once) {
        const input = readline.createInterface({ input: process.stdin });
        input.on('line', line => { writes.push(line); interrupt(); });
        input.on('close', () => { ended = true; interrupt(); });
    }
    do {
        for (const line of writes.splice(0)) {
            const [, name, value] = line.match(/^(\S*) ?(.*)$/s);
            try {
                (await client.exec('XMETASET', [string(''), [string(BASE + name), value ? literal(value) : atom('NIL')]])).next();
            } catch (err) {
                console.error('follow.js: ' + (err.responseText || err.message));
            }
        }
        const options = [atom('DEPTH'), atom('infinity')];
        if (once) options.push(atom('ONCE'));
        if (state.mark) options.push(atom('SINCE'), state.mark.map(atom));
        (await client.exec('XMETASYNC', [options, string(''), atom(BASE.slice(0, -1))], {
            untagged, onPlusTag: async () => { waiting = true; interrupt(); }
        })).next();
    } while (writes.length || !ended);
    await client.logout();
}

main().catch(err => {
    console.error('follow.js: ' + (err.responseText || err.message));
    process.exit(1);
});
