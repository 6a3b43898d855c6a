// imapflow speaks XMETASYNC (ONCE) and XMETASET through its exec(). Prints what it was told as JSON.
'use strict';

const { ImapFlow } = require('imapflow');

const [port, user] = process.argv.slice(2);
const NAME = '/private/vendor/test/a';

const atom = value => ({ type: 'ATOM', value });
const string = value => ({ type: 'STRING', value });

async function sync(client, mark) {
    const entries = [];
    let next = null;
    const options = [atom('ONCE'), atom('DEPTH'), atom('infinity')];
    if (mark) {
        options.push(atom('SINCE'), mark.map(atom));
    }
    const response = await client.exec('XMETASYNC', [options, string(''), atom('/private')], {
        untagged: {
            METADATA: async untagged => {
                const list = untagged.attributes[1];
                for (let i = 0; i < list.length; i += 2) {
                    entries.push([list[i].value, list[i + 1] && list[i + 1].value.toString()]);
                }
            },
            OK: async untagged => {
                const section = untagged.attributes[0] && untagged.attributes[0].section;
                if (section && section[0].value === 'XMETASYNC' && Array.isArray(section[1])) {
                    next = section[1].map(token => token.value);
                }
            }
        }
    });
    response.next();
    return { entries, mark: next };
}

async function main() {
    const client = new ImapFlow({
        host: '127.0.0.1', port: Number(port), secure: false, doSTARTTLS: false,
        auth: { user, pass: 'pass' }, logger: false
    });
    await client.connect();
    const first = await sync(client, null);
    (await client.exec('XMETASET', [string(''), [atom(NAME), string('2')]])).next();
    const second = await sync(client, first.mark);
    let conflict = 'OK';
    try {
        (await client.exec('XMETASET', [[atom('UNCHANGEDSINCE'), atom('0')], string(''),
            [atom(NAME), string('3')]])).next();
    } catch (err) {
        conflict = err.responseStatus;
    }
    await client.logout();
    console.log(JSON.stringify({ first: first.entries, second: second.entries, conflict }));
}

main().catch(err => {
    console.error(err);
    process.exit(1);
});
